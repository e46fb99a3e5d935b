// Picks the kernel table for the processor at hand.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tables.h"

namespace fused_resnet {

namespace {

struct Choice {
  const char* name;
  const Tables* tables;
};

// ATen's own variable lowers the choice for its kernels and for these.
Choice choose() {
#ifdef FUSED_RESNET_X86
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view limit = variable ? variable : "";
  __builtin_cpu_init();
  const bool avx2 = limit != "default" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = limit != "avx2" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return {"avx512", &avx512::tables};
  if (avx2) return {"avx2", &avx2::tables};
#endif
  return {"baseline", &baseline::tables};
}

std::atomic<const Tables*> chosen_products{nullptr}; // by use_product_kernels

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

const Tables& products() {
  const Tables* chosen = chosen_products.load(std::memory_order_relaxed);
  return chosen ? *chosen : *choice().tables;
}

} // namespace

template <>
const Kernels<float>& kernels<float>() {
  return choice().tables->fp32;
}
template <>
const Kernels<double>& kernels<double>() {
  return choice().tables->fp64;
}
template <>
const Kernels<BFloat16>& kernels<BFloat16>() {
  return choice().tables->bf16;
}

const ProductKernels& product_kernels() { return products().products; }
template <>
const OperandKernels<float>& operand_kernels<float>() {
  return products().operands_fp32;
}
template <>
const OperandKernels<BFloat16>& operand_kernels<BFloat16>() {
  return products().operands_bf16;
}

const char* instruction_set() { return choice().name; }

void use_product_kernels(const std::string& name) {
  if (name == "auto") chosen_products = nullptr;
  else if (name == "baseline") chosen_products = &baseline::tables;
#ifdef FUSED_RESNET_X86
  else if (name == "wide") chosen_products = &wide::tables;
#endif
  else throw std::invalid_argument("name: expected auto, baseline or, on x86, wide, got " + name);
}

} // namespace fused_resnet
