#include "matrix_engine.h"

#include <ATen/cpu/Utils.h>
#include <ATen/native/CPUBlas.h>

#include <atomic>
#include <vector>

#include "multiply_amx.h"
#include "multiply_avx512_bf16.h"
#include "products.h"
#include "tables.h"

namespace fused_resnet {

namespace {

const at::BFloat16* in_torch(const BFloat16* p) { return reinterpret_cast<const at::BFloat16*>(p); }

void add_row(const MatrixProduct& product, const BFloat16* row, float* c) {
  const int64_t n = product.n;
  std::vector<float> sums(static_cast<size_t>(n));
  const at::BFloat16* pairs = in_torch(product.b);
  for (const Segment* segment = product.segments; segment != product.segments + product.segment_count; ++segment) {
    TORCH_CHECK(segment->depth > 0 && segment->depth % 2 == 0, "a segment of ", segment->depth, " elements");
    for (int64_t d = 0; d < segment->depth; ++d) {
      const float x = static_cast<float>(in_torch(row)[segment->offset + d]);
      for (int64_t j = 0; j < n; ++j)
        sums[static_cast<size_t>(j)] += x * static_cast<float>(pairs[d / 2 * 2 * n + 2 * j + d % 2]);
    }
    pairs += segment->depth * n;
  }
  for (int64_t j = 0; j < n; ++j)
    c[j] = (product.add ? c[j] : 0.0f) + (product.scale ? product.scale[j] : 1.0f) * sums[static_cast<size_t>(j)];
}

void multiply_rows_emulated(const MatrixProduct& product, const BFloat16* const* rows) {
  TORCH_CHECK(product.m > 0 && product.n > 0 && product.segment_count > 0 && product.ldc >= product.n,
              "a matrix product of ", product.m, " rows of ", product.segment_count, " segments and ", product.n,
              " columns, ", product.ldc, " apart");
  for (int64_t i = 0; i < product.m; ++i) add_row(product, rows[i], product.c + i * product.ldc);
}

void multiply_to_emulated(const MatrixProduct& product, const BFloat16* const* rows, const Output<BFloat16>& to,
                          const ForwardEpilogue<BFloat16>& epilogue) {
  TORCH_CHECK(to.count == product.m && to.columns == product.n && product.ldc == product.n,
              "a product of ", product.m, " rows and ", product.n, " columns to store ", to.count, " and ", to.columns);
  multiply_rows_emulated(product, rows);
  operand_kernels<BFloat16>().store_forward(product.c, to, epilogue);
}

void multiply_emulated(const MatrixProduct& product, const BFloat16* a, int64_t lda) {
  std::vector<const BFloat16*> rows;
  for (int64_t i = 0; i < product.m; ++i) rows.push_back(a + i * lda);
  multiply_rows_emulated(product, rows.data());
}

constexpr MatrixEngine emulated{"emulated", multiply_emulated, nullptr, nullptr, [] {}};
constexpr MatrixEngine emulated_rows{"emulated_rows", multiply_emulated, multiply_rows_emulated, multiply_to_emulated,
                                     [] {}};
constexpr MatrixEngine emulated_tiles{"emulated_tiles", multiply_emulated_tiles, nullptr, nullptr, [] {}};
#ifdef FUSED_RESNET_X86
constexpr MatrixEngine amx{"amx", multiply_amx, nullptr, nullptr, release_amx};
constexpr MatrixEngine vectors{"avx512_bf16", multiply_avx512_bf16, multiply_rows_avx512_bf16, multiply_to_avx512_bf16,
                               [] {}};

std::string why_no_panels() {
  return product_kernels().panel == engine_columns ? "" : "ATEN_CPU_CAPABILITY is below avx512";
}

std::string why_not_amx() {
  if (!at::native::cpublas::could_pack(at::kBFloat16)) return "the processor has no AMX, or oneDNN may not use it";
  if (!at::cpu::init_amx()) return "the system does not let this process use AMX";
  return why_no_panels();
}

std::string why_not_vectors() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bf16")) return "the processor has no AVX512-BF16";
  return why_no_panels();
}
#endif

// An engine that this processor may have, and why it has not.
struct Candidate {
  const MatrixEngine* engine;
  std::string why_not;
};

// Best first.
const std::vector<Candidate>& candidates() {
#ifdef FUSED_RESNET_X86
  static const std::vector<Candidate> found{{&amx, why_not_amx()}, {&vectors, why_not_vectors()}};
#else
  static const std::vector<Candidate> found;
#endif
  return found;
}

const MatrixEngine* best_engine() {
  for (const Candidate& candidate : candidates())
    if (candidate.why_not.empty()) return candidate.engine;
  return nullptr;
}

std::atomic<bool> automatic{true};
std::atomic<const MatrixEngine*> chosen{nullptr}; // where it is not automatic

void choose(const MatrixEngine* engine) {
  chosen = engine;
  automatic = false;
}

} // namespace

void check_columns(const MatrixProduct& product) {
  TORCH_CHECK(product.n == engine_columns, "n: expected ", engine_columns, " columns, got ", product.n);
}

const MatrixEngine* matrix_engine() {
  return automatic.load(std::memory_order_relaxed) ? best_engine() : chosen.load(std::memory_order_relaxed);
}

void use_matrix_engine(const std::string& name) {
  if (name == "auto") automatic = true;
  else if (name == "none") choose(nullptr);
  else if (name == "emulated") choose(&emulated);
  else if (name == "emulated_rows") choose(&emulated_rows);
  else if (name == "emulated_tiles") choose(&emulated_tiles);
  else {
    for (const Candidate& candidate : candidates())
      if (name == candidate.engine->name) {
        TORCH_CHECK(candidate.why_not.empty(), "name: ", name, ": ", candidate.why_not);
        return choose(candidate.engine);
      }
    TORCH_CHECK(name == "amx" || name == "avx512_bf16",
                "name: expected auto, amx, avx512_bf16, emulated, emulated_rows, emulated_tiles or none, got ", name);
    TORCH_CHECK(false, "name: ", name, ": the processor is no x86");
  }
}

std::string matrix_engine_name() {
  const MatrixEngine* engine = matrix_engine();
  return engine ? engine->name : "none";
}

} // namespace fused_resnet
