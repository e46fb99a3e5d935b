// The arithmetic of Gram-folded units on vectors and small matrices: docs/design.md, "Gram folding".
#include <algorithm>
#include <vector>

#include "arguments.h"

namespace fused_resnet {

namespace {

// [K, C] of floats.
Tensor matrix(const Tensor& t, const char* name) {
  TORCH_CHECK(t.device().is_cpu() && t.dim() >= 2 && t.numel() == t.size(0) * t.size(1), name,
              ": expected a matrix on the CPU, got sizes ", t.sizes(), " on ", t.device());
  return check_vectors<float>(t.dim() == 2 ? t : t.view({t.size(0), t.size(1)}), t.size(0), t.size(1), name);
}

Tensor gram_matrix(const Tensor& gram, int64_t channels) {
  const Tensor moments = matrix(gram, "gram");
  TORCH_CHECK(moments.size(0) == channels && moments.size(1) == channels, "gram: expected sizes [", channels, ", ",
              channels, "], got ", gram.sizes());
  return moments;
}

Tensor gradient_matrix(const Tensor& p, const Tensor& weight) {
  TORCH_CHECK(p.numel() == weight.numel() && p.size(0) == weight.size(0), "p: expected sizes ", weight.sizes(),
              ", got ", p.sizes());
  return matrix(p, "p");
}

// Most of P - Σg meanᵀ may cancel, and of a sum of products.
double exact(float v) { return static_cast<double>(v); }

// Σ value(i), of several sums side by side.
template <class F>
double sum(int64_t count, const F& value) {
  constexpr int64_t lanes = 8;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int64_t l = 0; l < lanes; ++l) sums[l] += value(i + l);
  for (; i < count; ++i) sums[0] += value(i);
  for (int64_t l = 1; l < lanes; ++l) sums[0] += sums[l];
  return sums[0];
}

// f(k) for every row of a matrix.
template <class F>
void for_rows_of(const Tensor& matrix, const F& f) {
  const int64_t grain = std::max<int64_t>(1, min_task / matrix.size(1));
  at::parallel_for(0, matrix.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) f(k);
  });
}

// Rows of w, each times its factor.
Tensor scaled_rows(const Tensor& w, const float* factors) {
  Tensor scaled = at::empty_like(w);
  const int64_t channels = w.size(1);
  for_rows_of(w, [&, from = w.const_data_ptr<float>(), to = data<float>(scaled)](int64_t k) {
    for (int64_t c = 0; c < channels; ++c) to[k * channels + c] = factors[k] * from[k * channels + c];
  });
  return scaled;
}

// Rows [K, C] as the activations of K pixels [1, C, K, 1], for products by the loops of convolutions: a BLAS may have
// none for this processor.
Tensor as_pixels(const Tensor& rows) {
  return rows.view({1, rows.size(0), 1, rows.size(1)}).permute({0, 3, 1, 2});
}

// w gram; gram is symmetric.
Tensor times_gram(const Tensor& w, const Tensor& gram) {
  const int64_t channels = w.size(1);
  const Tensor filters = gram_matrix(gram, channels).view({channels, channels, 1, 1});
  return conv_fprop(as_pixels(w), filters, {}, {}, "identity", {1, 1}, {0, 0}, {1, 1}, 1, {}, {}, "identity")
      .permute({0, 2, 3, 1})
      .view(w.sizes());
}

// aᵀ b [C, C]
Tensor product_over_rows(const Tensor& a, const Tensor& b) {
  const int64_t channels = a.size(1);
  return conv_wgrad(as_pixels(a), as_pixels(b), {}, "identity", {channels, channels, 1, 1}, {1, 1}, {0, 0}, {1, 1}, 1,
                    {}, {})
      .view({channels, channels});
}

// constant -= Σ factors[r] / divisor * rows[r], in double.
void subtract_rows(std::vector<double>& constant, const Tensor& rows, const float* factors, double divisor) {
  const int64_t channels = rows.size(1), grain = std::max<int64_t>(16, min_task / rows.size(0));
  at::parallel_for(0, channels, grain, [&, from = rows.const_data_ptr<float>()](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows.size(0); ++r) {
      const double factor = exact(factors[r]) / divisor;
      const float* row = from + r * channels;
      double* to = constant.data();
      for (int64_t c = begin; c < end; ++c) to[c] -= factor * exact(row[c]);
    }
  });
}

} // namespace

std::tuple<Tensor, Tensor> folded_stats(const Tensor& weight, const Tensor& mean, const Tensor& gram, double count) {
  const Tensor w = matrix(weight, "weight");
  const int64_t filters = w.size(0), channels = w.size(1);
  const Tensor in_mean = check_vectors<float>(mean, 1, channels, "mean");
  const Tensor moved = times_gram(w, gram);
  Tensor means = at::empty({filters}, w.options()), vars = at::empty({filters}, w.options());
  const float *all = data<float>(w), *all_moved = data<float>(moved), *m = data<float>(in_mean);
  for_rows_of(w, [&, mean_out = data<float>(means), var_out = data<float>(vars)](int64_t k) {
    const float *row = all + k * channels, *moved_row = all_moved + k * channels;
    mean_out[k] = static_cast<float>(sum(channels, [=](int64_t c) { return exact(row[c]) * exact(m[c]); }));
    const double second = sum(channels, [=](int64_t c) { return exact(row[c]) * exact(moved_row[c]); });
    var_out[k] = static_cast<float>((second < 0 ? 0.0 : second) / count); // a NaN stays one
  });
  return {means, vars};
}

Tensor folded_sums(const Tensor& p, const Tensor& sums, const Tensor& weight, const Tensor& norm, const Tensor& mean) {
  const Tensor w = matrix(weight, "weight"), gradient = gradient_matrix(p, w);
  const int64_t filters = w.size(0), channels = w.size(1);
  const Tensor in_mean = check_vectors<float>(mean, 1, channels, "mean");
  const Tensor coefficients = check_vectors<float>(norm, 4, filters, "norm");
  const Tensor given = check_vectors<float>(sums, sums.size(0), filters, "sums");
  Tensor both = at::empty({2, filters}, w.options());
  const float *sg = data<float>(given), *invstd = data<float>(coefficients) + filters, *m = data<float>(in_mean);
  const float *all = data<float>(w), *all_p = data<float>(gradient);
  for_rows_of(w, [&, out = data<float>(both)](int64_t k) {
    const float *row = all + k * channels, *p_row = all_p + k * channels, of_g = sg[k];
    const double projected = sum(channels, [=](int64_t c) {
      return exact(row[c]) * (exact(p_row[c]) - exact(of_g) * exact(m[c]));
    });
    out[k] = of_g;
    out[filters + k] = static_cast<float>(projected * static_cast<double>(invstd[k]));
  });
  return both;
}

Tensor folded_wgrad(const Tensor& p, const Tensor& sums, const Tensor& dnorm, const Tensor& weight, const Tensor& mean,
                    const Tensor& gram) {
  const Tensor w = matrix(weight, "weight"), gradient = gradient_matrix(p, w);
  const int64_t filters = w.size(0), channels = w.size(1);
  const Tensor given = check_vectors<float>(sums, 2, filters, "sums");
  const Tensor coefficients = check_vectors<float>(dnorm, 3, filters, "dnorm");
  const Tensor in_mean = check_vectors<float>(mean, 1, channels, "mean");
  const float *sg = data<float>(given), *a = data<float>(coefficients), *b = a + filters, *m = data<float>(in_mean);
  const Tensor result = times_gram(w, gram);
  for_rows_of(w, [&, all_p = data<float>(gradient), all = data<float>(result)](int64_t k) {
    const float *p_row = all_p + k * channels, of_g = sg[k], scale = a[k], of_gram = b[k];
    float* out = all + k * channels;
    for (int64_t c = 0; c < channels; ++c)
      out[c] = scale * static_cast<float>(exact(p_row[c]) - exact(of_g) * exact(m[c])) + of_gram * out[c];
  });
  return result.view(p.sizes());
}

std::tuple<Tensor, Tensor, Tensor> folded_matrices(const Tensor& weight, const Tensor& sums, const Tensor& dnorm,
                                                   const Tensor& mean, double count) {
  const Tensor w = matrix(weight, "weight");
  const int64_t filters = w.size(0), channels = w.size(1);
  const Tensor given = check_vectors<float>(sums, 2, filters, "sums");
  const Tensor coefficients = check_vectors<float>(dnorm, 3, filters, "dnorm");
  const Tensor in_mean = check_vectors<float>(mean, 1, channels, "mean");
  const float *a = data<float>(coefficients), *b = a + filters;
  const Tensor weight_g = scaled_rows(w, a).to(weight.scalar_type());
  const Tensor weight_x = product_over_rows(w, scaled_rows(w, b)).to(weight.scalar_type());
  // from the rounded matrices, so that rounding them leaves no bias behind
  std::vector<double> constant(static_cast<size_t>(channels));
  subtract_rows(constant, matrix(weight_g, "weight_g"), data<float>(given), count);
  subtract_rows(constant, matrix(weight_x, "weight_x"), data<float>(in_mean), 1);
  Tensor bias = at::empty({channels}, w.options());
  std::transform(constant.begin(), constant.end(), data<float>(bias), [](double v) { return static_cast<float>(v); });
  return {weight_g, weight_x, bias};
}

} // namespace fused_resnet
