// Blocks whose BNs are known beforehand. Depth first, a task walks an image some output rows at a time, and what lies
// between the convolutions waits in windows that stay in the core's own cache.
#include "chain_plan.h"
#include "convolution.h"
#include "direct.h"
#include "packing.h"
#include "window.h"

namespace fused_resnet {

namespace {

// One convolution of a block.
struct Link {
  // Beside a projection, whose products are added to its own, a convolution cannot take Winograd's way.
  Link(const Convolution& conv, const Tensor& weight, const OptionalTensor& norm, const OptionalTensor& bias,
       bool projected)
      : conv(conv), gather(fprop_rows(conv)), winograd(!projected && winograd_pays(gather, conv.filters)),
        weights(packed_filters(weight, winograd)), affine(epilogue_affine(norm, bias, conv.filters)) {}

  const float* scale() const { return affine.any ? row(affine.vectors, 0) : nullptr; }
  const float* shift() const { return affine.any ? row(affine.vectors, 1) : nullptr; }

  Convolution conv;
  Gather gather;
  bool winograd;
  Tensor weights; // packed
  Affines affine;
};

// x and out are channels_last, the residual too where there is one.
template <class T>
struct Block {
  std::vector<Link> links;
  std::optional<Link> projection;
  Tensor summed; // beside a projection: [2, K], 1 and the sum of both shifts
  const T *x, *residual;
  T* out;
  float floor;
};

// What is multiplied in Winograd's way (winograd.h): its tiles, whose lines and pixels are `line` and `step` floats
// apart.
struct Tiles : WinogradTiles {
  int64_t line, step;
  const float* weights;
  int64_t depth;
};

// to[count][filters] = the epilogue of sums(panel, columns); `to` and `epilogue` are given from the first panel on.
template <class T, class Sums>
void store_panels(int64_t filters, Output<T> to, ForwardEpilogue<T> epilogue, const Sums& sums_of) {
  const int64_t width = product_kernels().panel;
  for (int64_t panel = 0; panel * width < filters; ++panel) {
    to.columns = std::min(width, filters - panel * width);
    operand_kernels<T>().store_forward(sums_of(panel, to.columns), to, epilogue);
    to.out += width;
    if (epilogue.scale) epilogue.scale += width;
    if (epilogue.shift) epilogue.shift += width;
    if (epilogue.residual) epilogue.residual += width;
  }
}

template <class T>
void multiply(const std::vector<Factor>& factors, int64_t filters, const Output<T>& to,
              const ForwardEpilogue<T>& epilogue) {
  float* sums = scratch(0, 2 * to.count * product_kernels().panel);
  store_panels(filters, to, epilogue, [&](int64_t panel, int64_t columns) {
    multiply_panel(factors, panel, to.count, columns, sums);
    return sums;
  });
}

template <class T>
void multiply(const Tiles& tiles, int64_t filters, const Output<T>& to, const ForwardEpilogue<T>& epilogue) {
  const int64_t width = product_kernels().panel, made = TransformedTiles::products(tiles.count());
  float* sums = scratch(0, to.count * width + made + TransformedTiles::inputs(tiles.count(), tiles.depth));
  float *products = sums + to.count * width, *inputs = products + made;
  TransformedTiles transformed;
  transformed.transform(tiles, tiles.line, tiles.step, tiles.depth, inputs);
  store_panels(filters, to, epilogue, [&](int64_t panel, int64_t columns) {
    transformed.multiply(tiles.weights + panel * winograd_positions * tiles.depth * width, tiles, columns, products,
                         sums);
    return sums;
  });
}

// Output rows of one image, by one thread.
template <class T>
class Task {
 public:
  Task(const Block<T>& block, int64_t rows, int64_t image) : block_(block), rows_(rows), image_(image) {
    x_.emplace(strip_of(block.links[0], 1));
    if (block.projection) shortcut_.emplace(strip_of(*block.projection, 2));
    for (size_t i = 1; i < block.links.size(); ++i) windows_.emplace_back(block.links[i].gather);
    std::vector<int64_t> heights(windows_.size(), rows);
    for (size_t i = windows_.size(); i-- > 1;) heights[i - 1] = windows_[i].lines(heights[i]);
    int64_t floats = 0;
    for (size_t i = 0; i < windows_.size(); ++i) floats += windows_[i].floats(heights[i]);
    // Winograd's tiles may reach behind the last line, for outputs that do not exist.
    float* data = scratch(3, floats + (windows_.empty() ? 0 : windows_.back().spare()));
    for (size_t i = 0; i < windows_.size(); ++i) {
      windows_[i].start(data, heights[i]);
      data += windows_[i].floats(heights[i]);
    }
  }

  void run(RowRange out) {
    for (int64_t row = out.begin; row < out.end; row += rows_) advance({row, std::min(row + rows_, out.end)});
  }

 private:
  Strip<T> strip_of(const Link& link, int slot) const {
    return Strip<T>(link.gather, {block_.x}, 0, link.conv.channels, 0, slot, !link.winograd);
  }

  // Output rows of the block, after what they need of every convolution before.
  void advance(RowRange out) {
    std::vector<RowRange> wanted(block_.links.size(), out);
    for (size_t i = windows_.size(); i-- > 0;) wanted[i] = windows_[i].slide(wanted[i + 1]);
    for (size_t i = 0; i < wanted.size(); ++i) {
      const int64_t most = rows_at_once(block_.links[i].conv, block_.links[i].winograd);
      for (int64_t row = wanted[i].begin; row < wanted[i].end; row += most)
        convolve(i, {row, std::min(row + most, wanted[i].end)});
    }
  }

  // Rows of one convolution, to where the next one reads them or the block's output is.
  void convolve(size_t i, RowRange rows) {
    const Link& link = block_.links[i];
    const int64_t filters = link.conv.filters, columns = link.conv.out[1], count = rows.count() * columns;
    offsets_.clear();
    if (i < windows_.size()) {
      for (int64_t row = rows.begin; row < rows.end; ++row) windows_[i].places(row, offsets_);
      return add_up<float>(i, rows, {windows_[i].data(), offsets_.data(), count, 0},
                           {link.scale(), link.shift(), nullptr, 0.0f});
    }
    const int64_t first = (image_ * link.conv.out[0] + rows.begin) * columns;
    for (int64_t p = 0; p < count; ++p) offsets_.push_back((first + p) * filters);
    ForwardEpilogue<T> epilogue{link.scale(), link.shift(), block_.residual, block_.floor};
    if (block_.projection) {
      epilogue.scale = row(block_.summed, 0);
      epilogue.shift = row(block_.summed, 1);
    }
    add_up<T>(i, rows, {block_.out, offsets_.data(), count, 0}, epilogue);
  }

  template <class S>
  void add_up(size_t i, RowRange rows, const Output<S>& to, const ForwardEpilogue<S>& epilogue) {
    const Link& link = block_.links[i];
    if (i == 0) x_->load(image_ * link.conv.out[0] + rows.begin, image_ * link.conv.out[0] + rows.end);
    const StripLayout& layout = i == 0 ? x_->layout : windows_[i - 1].layout();
    if (link.winograd) {
      Tiles tiles{{}, layout.line, layout.step, link.weights.template const_data_ptr<float>(), link.conv.channels};
      tiles.add(rows.count(), link.conv.out[1], [&](int64_t p, int64_t q) {
        return i == 0 ? x_->pixel(x_->pieces[0], p, q) : windows_[i - 1].pixel(rows.begin + p, q);
      });
      return multiply(tiles, link.conv.filters, to, epilogue);
    }
    factors_.clear();
    factors_.push_back(factor_of(link, layout));
    if (i == 0) x_->pixels(factors_[0].pixels);
    for (int64_t p = rows.begin; i > 0 && p < rows.end; ++p)
      for (int64_t q = 0; q < link.conv.out[1]; ++q) factors_[0].pixels.push_back(windows_[i - 1].pixel(p, q));
    if (i == windows_.size() && block_.projection) add_projection(rows);
    multiply(factors_, link.conv.filters, to, epilogue);
  }

  void add_projection(RowRange rows) {
    const Link& link = *block_.projection;
    const int64_t first = image_ * link.conv.out[0];
    factors_[0].scale = block_.links.back().scale();
    shortcut_->load(first + rows.begin, first + rows.end);
    factors_.push_back(factor_of(link, shortcut_->layout));
    factors_[1].scale = link.scale();
    shortcut_->pixels(factors_[1].pixels);
  }

  static Factor factor_of(const Link& link, const StripLayout& layout) {
    return {{}, layout.segments(longest_run), link.weights.template const_data_ptr<float>(), nullptr,
            link.gather.depth()};
  }

  const Block<T>& block_;
  int64_t rows_, image_;
  std::optional<Strip<T>> x_, shortcut_;
  std::vector<Window> windows_; // of every convolution but the first
  std::vector<Factor> factors_;
  std::vector<int64_t> offsets_;
};

template <class T>
void depth_first(const Block<T>& block, ChainCut cut) {
  const Convolution& last = block.links.back().conv;
  const int64_t height = last.out[0], parts = std::min(cut.parts, height);
  for_tasks(last.images * parts, true, [&](int64_t index) {
    const int64_t image = index / parts, part = index % parts;
    Task<T>(block, cut.rows, image).run({height * part / parts, height * (part + 1) / parts});
  });
}

// The arguments of the op.
struct Call {
  const Tensor& x;
  const std::vector<Tensor>& weights;
  const std::vector<OptionalTensor>&biases, &norms;
  const std::vector<int64_t>&strides, &paddings, &dilations, &groups;
  const OptionalTensor &projection_weight, &projection_norm;
  Pair projection_stride;
  const OptionalTensor& residual;
  const std::string& act;

  Pair stride(size_t i) const { return {strides[2 * i], strides[2 * i + 1]}; }
  Pair padding(size_t i) const { return {paddings[2 * i], paddings[2 * i + 1]}; }
  Pair dilation(size_t i) const { return {dilations[2 * i], dilations[2 * i + 1]}; }
};

ChainShape shape_of(const Call& call) {
  const size_t count = call.weights.size();
  TORCH_CHECK(count >= 1 && call.biases.size() == count && call.norms.size() == count &&
                  call.strides.size() == 2 * count && call.paddings.size() == 2 * count &&
                  call.dilations.size() == 2 * count && call.groups.size() == count,
              "weights: expected one bias, norm and group and two strides, paddings and dilations each, got ", count,
              " weights");
  TORCH_CHECK(!call.projection_weight || !call.residual, "residual: expected none beside a projection");
  check_activation(call.x, "x");
  const bool narrow = call.x.scalar_type() == at::kBFloat16;
  ChainShape shape{{}, {}, narrow && packing<BFloat16>() != Packing::floats};
  std::vector<int64_t> sizes = call.x.sizes().vec();
  for (size_t i = 0; i < count; ++i) {
    const Convolution conv = convolution(sizes, call.weights[i].sizes(), call.stride(i), call.padding(i),
                                         call.dilation(i), call.groups[i]);
    sizes = {conv.images, conv.filters, conv.out[0], conv.out[1]};
    shape.convolutions.push_back(conv);
  }
  if (call.projection_weight) {
    const Convolution conv = convolution(call.x.sizes(), call.projection_weight->sizes(), call.projection_stride,
                                         {0, 0}, {1, 1}, 1);
    TORCH_CHECK((std::vector<int64_t>{conv.images, conv.filters, conv.out[0], conv.out[1]}) == sizes,
                "projection_weight: expected a projection onto sizes ", sizes, ", got sizes ",
                call.projection_weight->sizes());
    shape.projection = conv;
  }
  return shape;
}

// [2, K]: 1, and the sum of the shifts.
Tensor summed_shifts(const Affines& a, const Affines& b) {
  const int64_t filters = a.vectors.size(1);
  Tensor summed = at::empty({2, filters}, at::kFloat);
  float *scale = summed.mutable_data_ptr<float>(), *shift = scale + filters;
  std::fill_n(scale, filters, 1.0f);
  for (int64_t k = 0; k < filters; ++k) shift[k] = row(a.vectors, 1)[k] + row(b.vectors, 1)[k];
  return summed;
}

Tensor run_depth_first(const Call& call, const ChainShape& shape, ChainCut cut) {
  const Convolution& last = shape.convolutions.back();
  Tensor out = empty_activation({last.images, last.filters, last.out[0], last.out[1]}, call.x);
  if (call.residual) check_like(*call.residual, out, "residual");
  dispatch_products(call.x, "x", [&](auto storage) {
    using T = decltype(storage);
    Block<T> block{{}, {}, {}, data<T>(call.x), call.residual ? data<T>(*call.residual) : nullptr, data<T>(out),
                   activation_floor<float>(call.act)};
    const size_t count = shape.convolutions.size();
    for (size_t i = 0; i < count; ++i)
      block.links.emplace_back(shape.convolutions[i], call.weights[i], call.norms[i], call.biases[i],
                               shape.projection && i + 1 == count);
    if (shape.projection) {
      block.projection.emplace(*shape.projection, *call.projection_weight, call.projection_norm, std::nullopt, true);
      block.summed = summed_shifts(block.links.back().affine, block.projection->affine);
    }
    depth_first(block, cut);
  });
  return out;
}

Tensor run_unit_by_unit(const Call& call, const ChainShape& shape) {
  const size_t last = call.weights.size() - 1;
  const Convolution& tail = shape.convolutions[last];
  const auto unit = [&](const Tensor& x, size_t i, const OptionalTensor& residual, const std::string& act) {
    return conv_fprop(x, call.weights[i], call.biases[i], std::nullopt, "identity", call.stride(i), call.padding(i),
                      call.dilation(i), 1, call.norms[i], residual, act);
  };
  Tensor x = call.x;
  for (size_t i = 0; i < last; ++i) x = unit(x, i, std::nullopt, "relu");
  if (!call.projection_weight) return unit(x, last, call.residual, call.act);
  const bool unstrided = tail.stride[0] == 1 && tail.stride[1] == 1;
  if (tail.pointwise() && unstrided && call.norms[last] && call.projection_norm && !call.biases[last])
    return conv_fprop_dual(x, call.weights[last], std::nullopt, "identity", *call.norms[last], call.x,
                           *call.projection_weight, call.projection_stride, *call.projection_norm, call.act);
  const Tensor shortcut =
      conv_fprop(call.x, *call.projection_weight, std::nullopt, std::nullopt, "identity", call.projection_stride,
                 {0, 0}, {1, 1}, 1, call.projection_norm, std::nullopt, "identity");
  return unit(x, last, shortcut, call.act);
}

} // namespace

Tensor conv_chain_fprop(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& biases,
                        const std::vector<OptionalTensor>& norms, const std::vector<int64_t>& strides,
                        const std::vector<int64_t>& paddings, const std::vector<int64_t>& dilations,
                        const std::vector<int64_t>& groups, const OptionalTensor& projection_weight,
                        const OptionalTensor& projection_norm, Pair projection_stride, const OptionalTensor& residual,
                        const std::string& act) {
  const Call call{x,      weights,           biases,          norms,             strides,  paddings, dilations,
                  groups, projection_weight, projection_norm, projection_stride, residual, act};
  const ChainShape shape = shape_of(call);
  const ChainCut cut = cut_chain(shape, at::get_num_threads());
  return cut.rows == 0 ? run_unit_by_unit(call, shape) : run_depth_first(call, shape, cut);
}

Tensor conv_chain_fprop_cut(const Tensor& x, const std::vector<Tensor>& weights,
                            const std::vector<OptionalTensor>& biases, const std::vector<OptionalTensor>& norms,
                            const std::vector<int64_t>& strides, const std::vector<int64_t>& paddings,
                            const std::vector<int64_t>& dilations, const std::vector<int64_t>& groups,
                            const OptionalTensor& projection_weight, const OptionalTensor& projection_norm,
                            Pair projection_stride, const OptionalTensor& residual, const std::string& act,
                            int64_t rows, int64_t parts) {
  const Call call{x,      weights,           biases,          norms,             strides,  paddings, dilations,
                  groups, projection_weight, projection_norm, projection_stride, residual, act};
  const ChainShape shape = shape_of(call);
  if (rows == 0) return run_unit_by_unit(call, shape);
  TORCH_CHECK(rows > 0 && parts > 0 && can_go_depth_first(shape), "rows, parts: got ", rows, ", ", parts,
              ", which this block cannot be cut into");
  return run_depth_first(call, shape, {rows, parts});
}

} // namespace fused_resnet
