// Products over pixels: gradients of weights, and Gram matrices.
#include <ATen/ops/zeros.h>

#include "convolution.h"
#include "matrix_product.h"
#include "packing.h"
#include "pool_of_buffers.h"
#include "reduce.h"
#include "winograd_wgrad.h"

namespace fused_resnet {

namespace {

// Of a strip: the most pixels, and the most elements of g and z together.
struct StripLimits {
  int64_t pixels, elements;
};
// 384 KiB; g's and z's pixels of a register tile stay in the first-level cache.
constexpr StripLimits of_floats{208, 98304};
// 768 KiB; the more pixels are added up at a time, the less often the sums are read and written.
constexpr StripLimits of_pairs{768, 262144};
constexpr int64_t pad = 16;
constexpr int64_t cache_line = 32; // of bf16

// How the pixels of some lines lie in both strips; as one line, where they do.
Correlation lines_of(const StripLayout& g, const StripLayout& z, int64_t lines) {
  Correlation tile{};
  tile.g_step = g.cols.step * g.step;
  tile.g_line = g.rows.step * g.line;
  tile.z_step = z.cols.step * z.step;
  tile.z_line = z.rows.step * z.line;
  tile.lines = lines;
  tile.pixels = g.gather.cols.out;
  if (tile.g_line == tile.pixels * tile.g_step && tile.z_line == tile.pixels * tile.z_step) {
    tile.pixels *= tile.lines;
    tile.lines = 1;
  }
  return tile;
}

int64_t offset_of(const StripLayout& z, const Columns& columns, int64_t tap) {
  return z.tap(static_cast<size_t>(tap / columns.tap_columns), static_cast<size_t>(tap % columns.tap_columns));
}

// Of a symmetric product, the first of the share's filters that `column` needs.
template <class T>
int64_t first_filter(const Correlated<T>& op, const Share& share, int64_t column) {
  const int64_t least = op.symmetric ? (share.first_channel + column) / tile_filters * tile_filters : 0;
  return std::max<int64_t>(0, least - share.first_filter);
}

template <class T>
void correlate_strip(const Correlated<T>& op, const Columns& columns, const Share& share, Strip<T>& g, Strip<T>& z,
                     int64_t begin, int64_t end, float* sums, bool add) {
  const ProductKernels& kernels = product_kernels();
  g.load(begin, end);
  z.load(begin, end);
  const int64_t row = columns.taps * columns.padded;
  const int64_t last = columns.merged ? columns.width_of_tap : share.channels;
  for (size_t p = 0; p < g.pieces.size(); ++p) {
    const Piece &g_piece = g.pieces[p], &z_piece = z.pieces[p];
    Correlation tile = lines_of(g.layout, z.layout, g_piece.count);
    const float *g_first = g.pixel(g_piece, 0, 0), *z_first = z.pixel(z_piece, 0, 0);
    for (int64_t column = 0; column < last; column += kernels.panel)
      for (int64_t tap = 0; tap < columns.taps; ++tap) {
        tile.z = z_first + column + offset_of(z.layout, columns, tap);
        for (int64_t k = first_filter(op, share, column); k < share.filters; k += tile_filters) {
          tile.g = g_first + k;
          kernels.correlate(tile, std::min(tile_filters, share.filters - k), last - column,
                            sums + (share.first_filter + k) * row + tap * columns.padded + share.first_channel + column,
                            row, add || p > 0);
        }
      }
  }
}

// A piece of both strips on matrix hardware, whose products are over pairs of a line's pixels.
struct PairedPiece {
  Correlation tile;
  const BFloat16 *g, *z;
  int64_t line; // pixels, filled up to pairs
  int64_t first; // of the pixels of all pieces
};

template <class T>
std::vector<PairedPiece> paired_pieces(const Strip<T, BFloat16>& g, const Strip<T, BFloat16>& z) {
  std::vector<PairedPiece> found;
  int64_t first = 0;
  for (size_t p = 0; p < g.pieces.size(); ++p) {
    const Correlation tile = lines_of(g.layout, z.layout, g.pieces[p].count);
    const int64_t line = divide_up(tile.pixels, 2) * 2;
    found.push_back({tile, g.pixel(g.pieces[p], 0, 0), z.pixel(z.pieces[p], 0, 0), line, first});
    first += tile.lines * line;
  }
  return found;
}

// A long row in parts, as caches like them.
std::vector<Segment> segments_of(int64_t depth) {
  std::vector<Segment> found;
  for (int64_t first = 0; first < depth; first += longest_pairs)
    found.push_back({first, std::min(longest_pairs, depth - first)});
  return found;
}

// The same on matrix hardware: g with its channels for rows, z in pairs for every tap, of all pieces at once, as the
// sums are read and written for every product.
template <class T>
void correlate_strip(const Correlated<T>&, const Columns& columns, const Share& share, Strip<T, BFloat16>& g,
                     Strip<T, BFloat16>& z, int64_t begin, int64_t end, float* sums, bool add) {
  const ProductKernels& kernels = product_kernels();
  const MatrixEngine& engine = *matrix_engine();
  g.load(begin, end);
  z.load(begin, end);
  const int64_t row = columns.taps * columns.padded;
  const int64_t last = columns.merged ? columns.width_of_tap : share.channels;
  const std::vector<PairedPiece> pieces = paired_pieces(g, z);
  const int64_t depth = pieces.back().first + pieces.back().tile.lines * pieces.back().line;
  const int64_t apart = (divide_up(depth, cache_line) | 1) * cache_line; // a power of two would share few lines
  const std::vector<Segment> segments = segments_of(depth);
  BFloat16 *by_filter = scratch_of<BFloat16>(0, share.filters * apart),
           *pairs = scratch_of<BFloat16>(3, depth * kernels.panel);
  for (const PairedPiece& piece : pieces)
    for (int64_t l = 0; l < piece.tile.lines; ++l)
      kernels.transpose(piece.g + l * piece.tile.g_line, piece.tile.pixels, piece.tile.g_step, share.filters,
                        by_filter + piece.first + l * piece.line, apart);
  for (int64_t column = 0; column < last; column += kernels.panel)
    for (int64_t tap = 0; tap < columns.taps; ++tap) {
      const int64_t offset = column + offset_of(z.layout, columns, tap);
      for (const PairedPiece& piece : pieces)
        for (int64_t l = 0; l < piece.tile.lines; ++l)
          kernels.pair_pixels(piece.z + offset + l * piece.tile.z_line, piece.tile.pixels, piece.tile.z_step,
                              last - column, pairs + (piece.first + l * piece.line) * kernels.panel);
      float* to = sums + share.first_filter * row + tap * columns.padded + share.first_channel + column;
      const MatrixProduct product{share.filters, kernels.panel, segments.data(),
                                  static_cast<int64_t>(segments.size()), pairs, to, row, add};
      engine.multiply(product, by_filter, apart);
    }
}

// totals[c] += Σ over the strip's pixels.
template <class T>
void add_totals(const Strip<T>& z, double* totals) {
  for (const Piece& piece : z.pieces)
    product_kernels().column_sums(z.pixel(piece, 0, 0), piece.count * z.layout.gather.cols.out, z.layout.step,
                                  z.layout.channels, totals);
}

// Lines of a strip: its pixels, and what it holds of g and z, fit the caches.
int64_t lines_per_strip(const StripLayout& g, const StripLayout& z, StripLimits most) {
  int64_t lines = 1;
  while (lines < g.gather.out_lines() && (lines + 1) * g.gather.cols.out <= most.pixels &&
         g.lines(lines + 1) * g.line + z.lines(lines + 1) * z.line <= most.elements)
    ++lines;
  return lines;
}

// sums [filters][taps][columns]; `totals` [channels], if given, gets Σz.
template <class T>
Tensor correlate(const Correlated<T>& op, const Columns& columns, double* totals) {
  const int64_t filters = op.g_gather.channels, channels = op.z_gather.channels, lines = op.g_gather.out_lines();
  const int64_t work = lines * op.g_gather.cols.out * filters * columns.taps * columns.width_of_tap;
  const Split split(columns, filters, channels, lines, work, op.symmetric);
  const int64_t size = filters * columns.taps * columns.padded;
  Tensor sums = are_final(split.copies, columns) ? at::empty({1, size}, at::kFloat) : pooled({split.copies, size});
  Tensor columns_total = at::zeros({totals ? split.copies : 0, channels}, at::kDouble);
  const auto run = [&](int64_t task) {
    const int64_t copy = task / split.parts;
    const Share share = split.share(task, filters, channels, lines);
    const auto add = [&](auto g, auto z, StripLimits most) {
      const int64_t step = lines_per_strip(g.layout, z.layout, most);
      float* own = sums.mutable_data_ptr<float>() + copy * sums.size(1);
      for (int64_t line = share.begin; line < share.end; line += step) {
        correlate_strip(op, columns, share, g, z, line, std::min(line + step, share.end), own, line != share.begin);
        if constexpr (std::is_same_v<decltype(z), Strip<T>>)
          if (totals) add_totals(z, columns_total.mutable_data_ptr<double>() + copy * channels);
      }
    };
    const auto add_as = [&](auto element, bool in_place, StripLimits most) {
      using Strips = Strip<T, decltype(element)>;
      add(Strips(op.g_gather, op.g, share.first_filter, share.filters, pad, 1, in_place),
          Strips(op.z_gather, op.z, share.first_channel, share.channels, columns.merged ? 0 : pad, 2, in_place),
          most);
    };
    if constexpr (std::is_same_v<T, BFloat16>)
      // a Gram matrix is of deviations, which rounding would make less exact than a variance may be
      if (const MatrixEngine* engine = op.symmetric ? nullptr : matrix_engine()) {
        const MatrixTask holds(*engine);
        return add_as(BFloat16{}, true, of_pairs);
      }
    add_as(0.0f, false, of_floats);
  };
  for_tasks(split.copies * split.parts, true, run);
  if (totals)
    for (int64_t copy = 0; copy < split.copies; ++copy)
      for (int64_t c = 0; c < channels; ++c) totals[c] += columns_total.const_data_ptr<double>()[copy * channels + c];
  return added_up(sums, columns, filters);
}

// Every output pixel by itself, in the order of `of`'s.
Gather pixels_of(const Gather& of, int64_t channels) {
  Gather gather{of.images, channels, {of.rows.out, of.rows.out, 1, {0}}, {of.cols.out, of.cols.out, 1, {0}}};
  return gather;
}

// [K, C, R, S], dense in channels_last.
Tensor as_weight(const Tensor& sums, const Convolution& conv) {
  return sums.view({conv.filters, conv.kernel[0], conv.kernel[1], conv.channels}).permute({0, 3, 1, 2});
}

template <class T>
Tensor weight_gradient(const Convolution& conv, const Operand<T>& dy, const Operand<T>& z) {
  const Gather gather = fprop_gather(conv);
  const bool winograd = packing<T>() == Packing::floats && winograd_fits(gather, conv.filters);
  const Columns columns(gather, !winograd);
  const Correlated<T> op{pixels_of(gather, conv.filters), gather, dy, z, false};
  return as_weight(winograd ? winograd_correlate(op, columns) : correlate(op, columns, nullptr), conv);
}

// The mean of a few pixels all over what is read: close enough to the true one for moments about it not to cancel.
template <class T>
Tensor estimated_mean(const Gather& gather, const Operand<T>& operand) {
  constexpr int64_t most = 64;
  const int64_t channels = gather.channels, pixels = gather.out_lines() * gather.cols.out;
  const int64_t count = std::min(most, pixels);
  std::vector<float> values(static_cast<size_t>(count * channels));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pixel = pixels * i / count, line = pixel / gather.cols.out, col = pixel % gather.cols.out;
    const int64_t row = line / gather.rows.out * gather.rows.in + line % gather.rows.out * gather.rows.step;
    const int64_t first = (row * gather.cols.in + col * gather.cols.step) * channels;
    operand_kernels<T>().read(operand, {first, 1, channels, 0, channels}, values.data() + i * channels, channels);
  }
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
    const Gather gather = fprop_gather(conv);
    const Tensor origin = estimated_mean<T>(gather, z.operand);
    z.operand.origin = origin.const_data_ptr<float>();
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
        const float value = static_cast<float>(static_cast<double>(about[i * channels + j]) - rest);
        centred[i * channels + j] = centred[j * channels + i] = value;
      }
    }
    return {mean, moments};
  });
}

} // namespace fused_resnet
