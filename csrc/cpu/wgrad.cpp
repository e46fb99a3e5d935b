// Products over pixels: gradients of weights, and Gram matrices.
#include <ATen/ops/zeros.h>

#include "convolution.h"
#include "reduce.h"

namespace fused_resnet {

namespace {

constexpr int64_t correlated_pixels = 208;    // g's and z's pixels of a tile stay in the first-level cache
constexpr int64_t correlated_floats = 98304;  // of g's and z's strips together: 384 KiB
constexpr int64_t copied_floats = 131072;     // sums that are cheaper to keep once per thread than to split
constexpr int64_t parallel_depth = 131072;    // multiply-adds that are worth a second thread
constexpr int64_t pad = 16;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Σ over pixels of g [filters] times what the taps read of z [channels]: sums [filters][taps][channels].
template <class T>
struct Correlated {
  Gather g_gather, z_gather;
  Operand<T> g, z;
  bool symmetric; // g is z: only what lies on or below the diagonal is needed
};

// Which part of the sums a task computes, from which lines.
struct Share {
  int64_t first_filter, filters, first_channel, channels, begin, end;
};

// z's columns in memory: where taps of a row are neighbours and channels few, one run of both.
struct Columns {
  explicit Columns(const Gather& z) {
    const int64_t width = product_kernels().panel;
    merged = z.cols.dense() && z.channels < width && z.cols.taps.size() > 1;
    tap_columns = merged ? 1 : static_cast<int64_t>(z.cols.taps.size());
    width_of_tap = z.channels * static_cast<int64_t>(merged ? z.cols.taps.size() : 1);
    padded = divide_up(width_of_tap, width) * width;
    taps = static_cast<int64_t>(z.rows.taps.size()) * tap_columns;
  }
  bool merged;
  int64_t tap_columns, width_of_tap, padded, taps;
};

template <class T>
void correlate_strip(const Correlated<T>& op, const Columns& columns, const Share& share, Strip<T>& g, Strip<T>& z,
                     int64_t begin, int64_t end, float* sums) {
  const ProductKernels& kernels = product_kernels();
  g.load(begin, end);
  z.load(begin, end);
  const int64_t row = columns.taps * columns.padded;
  const int64_t last = columns.merged ? columns.width_of_tap : share.channels;
  for (size_t p = 0; p < g.pieces.size(); ++p) {
    const Piece &g_piece = g.pieces[p], &z_piece = z.pieces[p];
    Correlation tile{};
    tile.g_step = g.layout.cols.step * g.layout.step;
    tile.g_line = g.layout.rows.step * g.layout.line;
    tile.z_step = z.layout.cols.step * z.layout.step;
    tile.z_line = z.layout.rows.step * z.layout.line;
    tile.lines = g_piece.count;
    tile.pixels = op.g_gather.cols.out;
    if (tile.g_line == tile.pixels * tile.g_step && tile.z_line == tile.pixels * tile.z_step) {
      tile.pixels *= tile.lines;
      tile.lines = 1;
    }
    const float *g_first = g.pixel(g_piece, 0, 0), *z_first = z.pixel(z_piece, 0, 0);
    for (int64_t column = 0; column < last; column += kernels.panel)
      for (int64_t tap = 0; tap < columns.taps; ++tap) {
        tile.z = z_first + column +
            z.layout.tap(static_cast<size_t>(tap / columns.tap_columns), static_cast<size_t>(tap % columns.tap_columns));
        const int64_t least = op.symmetric ? (share.first_channel + column) / tile_filters * tile_filters : 0;
        for (int64_t k = std::max<int64_t>(0, least - share.first_filter); k < share.filters; k += tile_filters) {
          tile.g = g_first + k;
          kernels.correlate(tile, std::min(tile_filters, share.filters - k),
                            sums + (share.first_filter + k) * row + tap * columns.padded + share.first_channel + column,
                            row);
        }
      }
  }
}

// How the sums are split: few of them are kept once per thread, each of some of the lines; of many every thread
// computes a part, of all lines.
struct Split {
  Split(const Columns& columns, int64_t filters, int64_t channels, int64_t lines, int64_t work, bool symmetric) {
    const int64_t threads = work >= parallel_depth ? at::get_num_threads() : 1;
    copies = filters * columns.taps * columns.padded <= copied_floats || symmetric ? std::min(threads, lines) : 1;
    const int64_t left = threads / copies;
    by_channel = !columns.merged && channels >= filters;
    const int64_t unit = by_channel ? product_kernels().panel : tile_filters;
    const int64_t units = divide_up(by_channel ? channels : filters, unit);
    parts = std::min(left, units);
    per_part = divide_up(units, parts) * unit;
    parts = divide_up(by_channel ? channels : filters, per_part);
  }
  int64_t copies, parts, per_part;
  bool by_channel;
};

// Lines of a strip: its pixels, and what it holds of g and z, fit the caches.
int64_t lines_per_strip(const StripLayout& g, const StripLayout& z) {
  int64_t lines = 1;
  while (lines < g.gather.out_lines() && (lines + 1) * g.gather.cols.out <= correlated_pixels &&
         g.lines(lines + 1) * g.line + z.lines(lines + 1) * z.line <= correlated_floats)
    ++lines;
  return lines;
}

// sums [filters][taps][padded columns]; `totals` [channels], if given, gets Σz.
template <class T>
Tensor correlate(const Correlated<T>& op, const Columns& columns, double* totals) {
  const int64_t filters = op.g_gather.channels, channels = op.z_gather.channels, lines = op.g_gather.out_lines();
  const int64_t work = lines * op.g_gather.cols.out * filters * columns.taps * columns.width_of_tap;
  const Split split(columns, filters, channels, lines, work, op.symmetric);
  const int64_t size = filters * columns.taps * columns.padded;
  // whole panels are added to: behind the last row's last part there has to be memory
  Tensor sums = at::zeros({split.copies, size + product_kernels().panel}, at::kFloat);
  Tensor columns_total = at::zeros({totals ? split.copies : 0, channels}, at::kDouble);
  const int64_t tasks = split.copies * split.parts;
  at::parallel_for(0, tasks, tasks > 1 ? 1 : 2, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t copy = task / split.parts, part = task % split.parts;
      Share share{0, filters, 0, channels, lines * copy / split.copies, lines * (copy + 1) / split.copies};
      int64_t& begin = split.by_channel ? share.first_channel : share.first_filter;
      int64_t& count = split.by_channel ? share.channels : share.filters;
      begin = part * split.per_part;
      count = std::min(split.per_part, count - begin);
      const int64_t z_pad = columns.merged ? 0 : pad;
      Strip<T> g(op.g_gather, op.g, share.first_filter, share.filters, pad, 1, false);
      Strip<T> z(op.z_gather, op.z, share.first_channel, share.channels, z_pad, 2, false);
      const int64_t step = lines_per_strip(g.layout, z.layout);
      float* own = sums.mutable_data_ptr<float>() + copy * sums.size(1);
      for (int64_t line = share.begin; line < share.end; line += step) {
        const int64_t stop = std::min(line + step, share.end);
        correlate_strip(op, columns, share, g, z, line, stop, own);
        if (totals)
          for (const Piece& piece : z.pieces)
            product_kernels().column_sums(z.pixel(piece, 0, 0), piece.count * op.g_gather.cols.out, z.layout.step,
                                          channels, columns_total.mutable_data_ptr<double>() + copy * channels);
      }
    }
  });
  for (int64_t copy = 1; copy < split.copies; ++copy) sums[0] += sums[copy];
  if (totals)
    for (int64_t copy = 0; copy < split.copies; ++copy)
      for (int64_t c = 0; c < channels; ++c) totals[c] += columns_total.const_data_ptr<double>()[copy * channels + c];
  return sums[0].narrow(0, 0, size).view({filters, columns.taps, columns.padded});
}

// Every output pixel by itself, in the order of `of`'s.
Gather pixels_of(const Gather& of, int64_t channels) {
  Gather gather{of.images, channels, {of.rows.out, of.rows.out, 1, {0}}, {of.cols.out, of.cols.out, 1, {0}}};
  return gather;
}

// [K, C, R, S], dense in channels_last.
Tensor as_weight(const Tensor& sums, const Columns& columns, const Convolution& conv) {
  return sums.narrow(2, 0, columns.width_of_tap)
      .reshape({conv.filters, conv.kernel[0], conv.kernel[1], conv.channels})
      .permute({0, 3, 1, 2})
      .contiguous(at::MemoryFormat::ChannelsLast);
}

template <class T>
Tensor weight_gradient(const Convolution& conv, const Operand<T>& dy, const Operand<T>& z) {
  const Gather gather = fprop_gather(conv);
  const Columns columns(gather);
  return as_weight(correlate<T>({pixels_of(gather, conv.filters), gather, dy, z, false}, columns, nullptr), columns,
                   conv);
}

// The mean of a few pixels all over the tensor: close enough to the true one for moments about it not to cancel.
template <class T>
Tensor estimated_mean(const Operand<T>& operand, const Tensor& x) {
  constexpr int64_t most = 64;
  const int64_t channels = x.size(1), pixels = x.numel() / channels, count = std::min(most, pixels);
  std::vector<float> values(static_cast<size_t>(count * channels));
  for (int64_t i = 0; i < count; ++i)
    operand_kernels<T>().read(operand, {pixels * i / count * channels, 1, channels, 0, channels},
                              values.data() + i * channels, channels);
  std::vector<double> sums(static_cast<size_t>(channels));
  product_kernels().column_sums(values.data(), count, channels, channels, sums.data());
  Tensor mean = at::empty({channels}, at::kFloat);
  for (int64_t c = 0; c < channels; ++c)
    mean.mutable_data_ptr<float>()[c] = static_cast<float>(sums[static_cast<size_t>(c)] / static_cast<double>(count));
  return mean;
}

} // namespace

Tensor conv_wgrad(const Tensor& g, const Tensor& x, const OptionalTensor& x_norm, const std::string& x_act,
                  std::array<int64_t, 4> weight_size, Pair stride, Pair padding, Pair dilation, int64_t groups,
                  const OptionalTensor& y, const OptionalTensor& dnorm) {
  check_activation(x, "x");
  const Convolution conv = convolution(x.sizes(), weight_size, stride, padding, dilation, groups);
  check_sizes(g, {conv.images, conv.filters, conv.out[0], conv.out[1]}, x, "g");
  return dispatch_products(x, "x", [&](auto storage) {
    using T = decltype(storage);
    const Read<T> dy = read_gradient<T>(g, y, dnorm), z = read_activation<T>(x, x_norm, x_act);
    return weight_gradient<T>(conv, dy.operand, z.operand);
  });
}

std::tuple<Tensor, Tensor, Tensor> conv_wgrad_masked(const Tensor& dout, const Tensor& out, const Tensor& x,
                                                     const OptionalTensor& x_norm, const std::string& x_act,
                                                     std::array<int64_t, 4> weight_size, Pair stride) {
  auto [g, sums] = bn_act_bwd_reduce(dout, std::nullopt, std::nullopt, out, std::nullopt, std::nullopt, "relu");
  Tensor weight = conv_wgrad(g, x, x_norm, x_act, weight_size, stride, {0, 0}, {1, 1}, 1, std::nullopt, std::nullopt);
  return {g, sums, weight};
}

std::tuple<Tensor, Tensor> gram(const Tensor& x, const OptionalTensor& x_norm, const std::string& x_act, Pair stride) {
  check_activation(x, "x");
  const int64_t channels = x.size(1);
  const int64_t size[4] = {channels, channels, 1, 1};
  const Convolution conv = convolution(x.sizes(), size, stride, {0, 0}, {1, 1}, 1);
  return dispatch_products(x, "x", [&](auto storage) -> std::tuple<Tensor, Tensor> {
    using T = decltype(storage);
    Read<T> z = read_activation<T>(x, x_norm, x_act);
    const Tensor origin = estimated_mean<T>(z.operand, x);
    z.operand.origin = origin.const_data_ptr<float>();
    const Gather gather = fprop_gather(conv);
    const Columns columns(gather);
    std::vector<double> totals(static_cast<size_t>(channels));
    const Tensor sums = correlate<T>({gather, gather, z.operand, z.operand, true}, columns, totals.data());
    // about the estimate; Σ(z - mean)(z - mean)ᵀ = Σ(z - o)(z - o)ᵀ - M*dᵀd with d = mean - o
    const double count = static_cast<double>(gather.out_lines() * gather.cols.out);
    Tensor mean = at::empty({channels}, at::kFloat), moments = at::empty({channels, channels}, at::kFloat);
    const float* about = sums.const_data_ptr<float>();
    float* centred = moments.mutable_data_ptr<float>();
    for (int64_t i = 0; i < channels; ++i) {
      const double total = totals[static_cast<size_t>(i)];
      mean.mutable_data_ptr<float>()[i] = static_cast<float>(static_cast<double>(z.operand.origin[i]) + total / count);
      for (int64_t j = 0; j <= i; ++j) {
        const double rest = total * totals[static_cast<size_t>(j)] / count;
        const float value = static_cast<float>(static_cast<double>(about[i * columns.padded + j]) - rest);
        centred[i * channels + j] = centred[j * channels + i] = value;
      }
    }
    return {mean, moments};
  });
}

} // namespace fused_resnet
