#include "matrix_engine.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <atomic>
#include <vector>

#include "multiply_avx512_bf16.h"
#include "products.h"
#include "tables.h"

namespace fused_resnet {

namespace {

using at::native::cpublas::brgemm;

const at::BFloat16* in_torch(const BFloat16* p) { return reinterpret_cast<const at::BFloat16*>(p); }

void multiply_rows_emulated(const BFloat16* const* rows, int64_t m, int64_t n, const Segment* segments,
                            int64_t segment_count, int64_t ldc, bool add, const BFloat16* b, float* c) {
  TORCH_CHECK(m > 0 && n > 0 && segment_count > 0 && ldc >= n, "a matrix product of [", m, "] rows of ", segment_count,
              " segments and [", n, "] columns, ", ldc, " apart");
  for (int64_t i = 0; i < m; ++i, c += ldc) {
    if (!add) std::fill_n(c, n, 0.0f);
    const at::BFloat16* pairs = in_torch(b);
    for (const Segment* segment = segments; segment != segments + segment_count; ++segment) {
      TORCH_CHECK(segment->depth > 0 && segment->depth % 2 == 0, "a segment of ", segment->depth, " elements");
      for (int64_t d = 0; d < segment->depth; ++d) {
        const float x = static_cast<float>(in_torch(rows[i])[segment->offset + d]);
        for (int64_t j = 0; j < n; ++j) c[j] += x * static_cast<float>(pairs[d / 2 * 2 * n + 2 * j + d % 2]);
      }
      pairs += segment->depth * n;
    }
  }
}

void multiply_emulated(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldc, bool add, const BFloat16* a,
                       const BFloat16* b, float* c) {
  TORCH_CHECK(lda >= k, "rows of ", k, " elements, ", lda, " apart");
  const Segment whole{0, k};
  for (int64_t i = 0; i < m; ++i, a += lda, c += ldc) multiply_rows_emulated(&a, 1, n, &whole, 1, ldc, add, b, c);
}

void multiply_by_brgemm(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldc, bool add, const BFloat16* a,
                        const BFloat16* b, float* c) {
  brgemm(m, n, k, lda, n, ldc, add, in_torch(a), in_torch(b), c, /*is_vnni=*/true);
}

constexpr MatrixEngine emulated{"emulated", multiply_emulated, nullptr, [] {}};
constexpr MatrixEngine emulated_rows{"emulated_rows", multiply_emulated, multiply_rows_emulated, [] {}};
constexpr MatrixEngine amx{"amx", multiply_by_brgemm, nullptr, [] { at::native::cpublas::brgemm_release(true); }};
#ifdef FUSED_RESNET_X86
constexpr MatrixEngine vectors{"avx512_bf16", multiply_avx512_bf16, multiply_rows_avx512_bf16, [] {}};
#endif

struct Trial {
  int64_t m, k, lda;
};

// Small integers, of which every product and sum is exact. Pairs in another order than ours would not pass.
bool passes(const MatrixEngine& tried, const Trial& trial, int64_t n) {
  const int64_t ldc = n + 16;
  std::vector<at::BFloat16> a(static_cast<size_t>(trial.m * trial.lda)), b(static_cast<size_t>(trial.k * n));
  uint32_t state = 1;
  const auto next = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 29) - 3.0f; };
  for (at::BFloat16& v : a) v = next();
  for (at::BFloat16& v : b) v = next();
  std::vector<float> found(static_cast<size_t>(trial.m * ldc), 1.0f), wanted = found;
  const auto* left = reinterpret_cast<const BFloat16*>(a.data());
  const auto* right = reinterpret_cast<const BFloat16*>(b.data());
  for (const bool add : {false, true}) {
    tried.multiply(trial.m, n, trial.k, trial.lda, ldc, add, left, right, found.data());
    emulated.multiply(trial.m, n, trial.k, trial.lda, ldc, add, left, right, wanted.data());
  }
  return found == wanted;
}

// Why ATen's brgemm is not used; empty where it is. Without AMX it is slower than our vectors, or widens.
std::string why_not_amx() {
  const int64_t n = product_kernels().panel;
  if (!at::native::cpublas::could_pack(at::kBFloat16)) return "the processor has no AMX, or ATen may not use it";
  if (n != 64) return "ATEN_CPU_CAPABILITY is below avx512";
  try {
    const MatrixTask task(amx);
    for (const Trial& trial : {Trial{1, 2, 2}, {16, 32, 32}, {37, 30, 46}, {100, 576, 576}, {7, 514, 1024}})
      if (!passes(amx, trial, n)) return "ATen's brgemm does not take weights in the order of these kernels";
  } catch (const std::exception& error) {
    return std::string("ATen's brgemm raised: ") + error.what();
  }
  return "";
}

std::string why_not_vectors() {
#ifdef FUSED_RESNET_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bf16")) return "the processor has no AVX512-BF16";
  return product_kernels().panel == 64 ? "" : "ATEN_CPU_CAPABILITY is below avx512";
#else
  return "the processor is no x86";
#endif
}

// An engine that this processor may have, and why it has not.
struct Candidate {
  const MatrixEngine* engine;
  std::string why_not;
};

// Best first.
const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> found{
      {&amx, why_not_amx()},
#ifdef FUSED_RESNET_X86
      {&vectors, why_not_vectors()},
#endif
  };
  return found;
}

// Null where there is none, as when the user turned oneDNN off.
const MatrixEngine* best_engine() {
  for (const Candidate& candidate : candidates())
    if (candidate.why_not.empty() && (candidate.engine != &amx || at::globalContext().userEnabledMkldnn()))
      return candidate.engine;
  return nullptr;
}

std::atomic<bool> automatic{true};
std::atomic<const MatrixEngine*> chosen{nullptr}; // where it is not automatic

void choose(const MatrixEngine* engine) {
  chosen = engine;
  automatic = false;
}

} // namespace

const MatrixEngine* matrix_engine() {
  return automatic.load(std::memory_order_relaxed) ? best_engine() : chosen.load(std::memory_order_relaxed);
}

void use_matrix_engine(const std::string& name) {
  if (name == "auto") automatic = true;
  else if (name == "none") choose(nullptr);
  else if (name == "emulated") choose(&emulated);
  else if (name == "emulated_rows") choose(&emulated_rows);
  else {
    for (const Candidate& candidate : candidates())
      if (name == candidate.engine->name) {
        TORCH_CHECK(candidate.why_not.empty(), "name: ", name, ": ", candidate.why_not);
        return choose(candidate.engine);
      }
    TORCH_CHECK(name == "amx" || name == "avx512_bf16",
                "name: expected auto, amx, avx512_bf16, emulated, emulated_rows or none, got ", name);
    TORCH_CHECK(false, "name: ", name, ": the processor is no x86");
  }
}

std::string matrix_engine_name() {
  const MatrixEngine* engine = matrix_engine();
  return engine ? engine->name : "none";
}

} // namespace fused_resnet
