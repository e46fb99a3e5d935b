// Ops that reduce over the pixels: batch statistics and BN's backward sums.
#include "reduce.h"

namespace fused_resnet {

namespace {

// Merges what the chunks found, lane by lane, into moments per channel.
template <class T>
void merge_chunks(const Rows& rows, const Chunks& chunks, const Tensor& partial, double* mean, double* m2) {
  double count = 0;
  std::fill_n(mean, rows.channels, 0.0);
  std::fill_n(m2, rows.channels, 0.0);
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const double* chunk_mean = partial.const_data_ptr<double>() + chunk * 2 * rows.width;
    const int64_t size = rows.offset(chunks.begin(chunk + 1)) - rows.offset(chunks.begin(chunk));
    for (int64_t lane = 0; lane < rows.width; lane += rows.channels) {
      const double lane_count = static_cast<double>(size / rows.width + (lane < size % rows.width));
      if (lane_count == 0) continue;
      kernels<T>().merge_moments(mean, m2, count, chunk_mean + lane, chunk_mean + rows.width + lane, lane_count,
                                 rows.channels);
      count += lane_count;
    }
  }
}

} // namespace

std::tuple<Tensor, Tensor> bn_stats(const Tensor& y) {
  check_activation(y, "y");
  return dispatch(y, "y", [&](auto storage) -> std::tuple<Tensor, Tensor> {
    using T = decltype(storage);
    using A = Acc<T>;
    const Rows rows = rows_of(y);
    const Chunks chunks(rows.count, rows.width);
    Tensor partial = at::empty({chunks.count, 2, rows.width}, at::kDouble);
    at::parallel_for(0, chunks.count, 1, [&](int64_t begin, int64_t end) {
      std::vector<A> scratch(3 * rows.width);
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t first = rows.offset(chunks.begin(chunk)), last = rows.offset(chunks.begin(chunk + 1));
        double* mean = partial.mutable_data_ptr<double>() + chunk * 2 * rows.width;
        kernels<T>().moments(data<T>(y) + first, last - first, rows.width, mean, mean + rows.width, scratch.data());
      }
    });
    std::vector<double> mean(rows.channels), m2(rows.channels);
    merge_chunks<T>(rows, chunks, partial, mean.data(), m2.data());
    const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<A>::value);
    Tensor mean_out = at::empty({rows.channels}, options), var_out = at::empty({rows.channels}, options);
    const double inverse_count = static_cast<double>(rows.channels) / static_cast<double>(rows.size);
    for (int64_t c = 0; c < rows.channels; ++c) {
      mean_out.mutable_data_ptr<A>()[c] = static_cast<A>(mean[c]);
      var_out.mutable_data_ptr<A>()[c] = static_cast<A>(m2[c] * inverse_count);
    }
    return {mean_out, var_out};
  });
}

std::tuple<Tensor, Tensor> bn_act_bwd_reduce(const Tensor& dout, const OptionalTensor& y, const OptionalTensor& norm,
                                             const OptionalTensor& out, const OptionalTensor& dual_y,
                                             const OptionalTensor& dual_norm, const std::string& act) {
  check_activation(dout, "dout");
  if (y) check_like(*y, dout, "y");
  if (out) check_like(*out, dout, "out");
  if (dual_y) check_like(*dual_y, dout, "dual_y");
  TORCH_CHECK(y.has_value() == norm.has_value() && dual_y.has_value() == dual_norm.has_value(),
              "norm, dual_norm: expected exactly when their activations are given");
  return dispatch(dout, "dout", [&](auto storage) -> std::tuple<Tensor, Tensor> {
    using T = decltype(storage);
    using A = Acc<T>;
    const bool relu = activation_floor<A>(act) == 0;
    TORCH_CHECK(!relu || y || out, "out: expected a tensor to take the ReLU mask from, as y is None");
    const Rows rows = rows_of(dout);
    Tensor g = empty_activation_like(dout);
    BackwardReduce<T> op{};
    op.dout = op.mask_source = data<T>(dout);
    op.g = data<T>(g);

    std::optional<Lanes<A>> coefficients[2];
    std::array<const A*, 2> invstd{};
    const std::pair<const OptionalTensor&, const OptionalTensor&> units[2] = {{y, norm}, {dual_y, dual_norm}};
    for (int u = 0; u < 2; ++u) {
      if (!units[u].first) continue;
      coefficients[u].emplace(*units[u].second, 4, rows, "norm");
      const Lanes<A>& lanes = *coefficients[u];
      invstd[op.projection_count] = lanes[1];
      op.projections[op.projection_count++] = {data<T>(*units[u].first), lanes[0]};
    }
    if (relu && out) {
      op.mask = Mask::output;
      op.mask_source = data<T>(*out);
    } else if (relu) {
      op.mask = Mask::affine;
      op.mask_source = data<T>(*y);
      op.affine = affine_of<T>(*coefficients[0]);
    }

    const Chunks chunks(rows.count, rows.width);
    const int64_t vectors = 1 + op.projection_count;
    Tensor partial = at::empty({chunks.count, vectors, rows.width}, at::kDouble);
    at::parallel_for(0, chunks.count, 1, [&](int64_t begin, int64_t end) {
      std::vector<A> scratch(3 * rows.width);
      for (int64_t chunk = begin; chunk < end; ++chunk)
        kernels<T>().backward_reduce(op, rows.offset(chunks.begin(chunk)), rows.offset(chunks.begin(chunk + 1)),
                                     rows.width, partial.mutable_data_ptr<double>() + chunk * vectors * rows.width,
                                     scratch.data());
    });
    return {g, finish_sums<A>(partial, rows.channels, invstd)};
  });
}

} // namespace fused_resnet
