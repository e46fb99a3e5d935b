#include "matrix_engine.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <atomic>
#include <vector>

#include "products.h"
#include "tables.h"

namespace fused_resnet {

namespace {

using at::native::cpublas::brgemm;

const at::BFloat16* in_torch(const BFloat16* p) { return reinterpret_cast<const at::BFloat16*>(p); }

void multiply_emulated(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldc, bool add, const BFloat16* a,
                       const BFloat16* b, float* c) {
  TORCH_CHECK(m > 0 && n > 0 && k > 0 && k % 2 == 0 && lda >= k && ldc >= n, "a matrix product of [", m, "][", k,
              "] and [", k, "][", n, "] with rows ", lda, " and ", ldc, " apart");
  for (int64_t i = 0; i < m; ++i, a += lda, c += ldc) {
    if (!add) std::fill_n(c, n, 0.0f);
    for (int64_t d = 0; d < k; ++d) {
      const float x = static_cast<float>(in_torch(a)[d]);
      const at::BFloat16* row = in_torch(b) + d / 2 * 2 * n + d % 2;
      for (int64_t j = 0; j < n; ++j) c[j] += x * static_cast<float>(row[2 * j]);
    }
  }
}

void multiply_on_hardware(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldc, bool add, const BFloat16* a,
                          const BFloat16* b, float* c) {
  brgemm(m, n, k, lda, n, ldc, add, in_torch(a), in_torch(b), c, /*is_vnni=*/true);
}

constexpr MatrixEngine emulated{"emulated", multiply_emulated, [] {}};
constexpr MatrixEngine hardware{"hardware", multiply_on_hardware, [] { at::native::cpublas::brgemm_release(true); }};

// brgemm takes pairs on every processor with AVX-512, but without bf16 instructions it widens them.
bool has_bf16_instructions() {
  if (at::native::cpublas::could_pack(at::kBFloat16)) return true; // AMX
#ifdef FUSED_RESNET_X86
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

struct Trial {
  int64_t m, k, lda;
};

// Small integers, of which every product and sum is exact. Pairs in another order than ours would not pass.
bool passes(const Trial& trial, int64_t n) {
  const int64_t ldc = n + 16;
  std::vector<at::BFloat16> a(static_cast<size_t>(trial.m * trial.lda)), b(static_cast<size_t>(trial.k * n));
  uint32_t state = 1;
  const auto next = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 29) - 3.0f; };
  for (at::BFloat16& v : a) v = next();
  for (at::BFloat16& v : b) v = next();
  std::vector<float> found(static_cast<size_t>(trial.m * ldc), 1.0f), wanted = found;
  const auto* left = reinterpret_cast<const BFloat16*>(a.data());
  const auto* right = reinterpret_cast<const BFloat16*>(b.data());
  for (const MatrixEngine* engine : {&hardware, &emulated})
    for (const bool add : {false, true})
      engine->multiply(trial.m, n, trial.k, trial.lda, ldc, add, left, right,
                       (engine == &hardware ? found : wanted).data());
  return found == wanted;
}

// Why bf16 is not multiplied by the hardware; empty where it is.
std::string why_not() {
  const int64_t n = product_kernels().panel;
  if (!has_bf16_instructions()) return "the processor has neither AMX nor AVX512-BF16";
  if (n != 64) return "ATEN_CPU_CAPABILITY is below avx512";
  try {
    const MatrixTask task(hardware);
    for (const Trial& trial : {Trial{1, 2, 2}, {16, 32, 32}, {37, 30, 46}, {100, 576, 576}, {7, 514, 1024}})
      if (!passes(trial, n)) return "ATen's brgemm does not take weights in the order of these kernels";
  } catch (const std::exception& error) {
    return std::string("ATen's brgemm raised: ") + error.what();
  }
  return "";
}

const std::string& why_no_hardware() {
  static const std::string why = why_not();
  return why;
}

enum class Choice { automatic, hardware, emulated, none };
std::atomic<Choice> choice{Choice::automatic};

} // namespace

const MatrixEngine* matrix_engine() {
  switch (choice.load(std::memory_order_relaxed)) {
    case Choice::none: return nullptr;
    case Choice::emulated: return &emulated;
    case Choice::hardware: return &hardware;
    default: break;
  }
  return at::globalContext().userEnabledMkldnn() && why_no_hardware().empty() ? &hardware : nullptr;
}

void use_matrix_engine(const std::string& name) {
  TORCH_CHECK(name == "auto" || name == "hardware" || name == "emulated" || name == "none",
              "name: expected auto, hardware, emulated or none, got ", name);
  TORCH_CHECK(name != "hardware" || why_no_hardware().empty(), "name: hardware: ", why_no_hardware());
  choice = name == "auto" ? Choice::automatic
      : name == "hardware" ? Choice::hardware
      : name == "emulated" ? Choice::emulated
                           : Choice::none;
}

std::string matrix_engine_name() {
  const MatrixEngine* engine = matrix_engine();
  return engine ? engine->name : "none";
}

} // namespace fused_resnet
