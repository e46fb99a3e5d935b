// Products on matrix hardware: operands are read as bf16, weights lie in pairs (packing.h).
#pragma once

#include <cstring>

#include "cut.h"
#include "forward_store.h"
#include "matrix_engine.h"

namespace fused_resnet {

constexpr int64_t longest_pairs = 512; // elements of a pixel that are multiplied at a time
constexpr int64_t least_unfolded = 32; // channels from which taps are multiplied one by one
constexpr int64_t short_line = 32;     // pixels, from which on a line is worth a product of its own

// A source's strip as rows of matrices.
class MatrixOperand {
 public:
  // alone: nothing else is added to its sums, so that these may have gaps while they are added up.
  MatrixOperand(const MatrixEngine& engine, const Source<BFloat16>& source, int slot, bool alone)
      : anywhere_(engine.multiply_rows != nullptr),
        unfolds_(!anywhere_ && source.gather.taps() > 1 && source.gather.channels < least_unfolded),
        strip_(source.gather, source.operand, 0, source.gather.channels, 0, slot, !unfolds_, 2),
        segments_(strip_.layout.segments(longest_pairs, anywhere_ || unfolds_)) {
    for (const Segment& segment : segments_) depth_ += segment.depth;
    if (anywhere_) return;
    const StripLayout& layout = strip_.layout;
    columns_ = layout.gather.cols.out;
    line_ = layout.rows.step * layout.line;
    distance_ = columns_ == 1 ? line_ : layout.cols.step * layout.step;
    const int64_t pitch = line_ / distance_;
    if (columns_ == 1 || line_ == columns_ * distance_) pitch_ = columns_;
    else if (alone && !unfolds_ && line_ % distance_ == 0 && columns_ < short_line && 3 * columns_ >= 2 * pitch)
      pitch_ = pitch;
  }

  int64_t depth() const { return depth_; } // of the weights, pairs filled up
  int64_t rows() const { return rows_; }   // of the sums, gaps included
  const std::vector<Piece>& pieces() const { return strip_.pieces; }

  void load(int64_t begin, int64_t end) {
    strip_.load(begin, end);
    if (anywhere_) {
      strip_.pixels(pixels_);
      rows_ = static_cast<int64_t>(pixels_.size());
      return;
    }
    find_runs();
    if (unfolds_) unfold();
  }

  // sums [pixels][width] = (add: +=) the pixels times weights [depth/2][width][2]. There is room for rows() of them.
  void multiply(const MatrixEngine& engine, const BFloat16* weights, int64_t width, bool add, float* sums) const {
    MatrixProduct product = product_of(weights, width, add, sums);
    if (anywhere_) return engine.multiply_rows(product, pixels_.data());
    const Segment whole{0, depth_};
    if (unfolds_) {
      product.segments = &whole;
      product.segment_count = 1;
    }
    for (const Run& run : runs_) {
      product.m = run.count;
      product.c = sums + run.before * width;
      engine.multiply(product, run.first, run.distance);
    }
    close_gaps(width, sums);
  }

  // The same, the first `columns` times `scale`; the others, which do not exist, as they come out.
  void multiply_scaled(const MatrixEngine& engine, const BFloat16* weights, int64_t width, bool add, const float* scale,
                       int64_t columns, float* sums) const {
    if (anywhere_ && columns == width) {
      MatrixProduct product = product_of(weights, width, add, sums);
      product.scale = scale;
      return engine.multiply_rows(product, pixels_.data());
    }
    float* const unscaled = scratch(3, rows_ * width); // what is scaled has one tap: nothing unfolds
    multiply(engine, weights, width, false, unscaled);
    const auto pixels = anywhere_ ? rows_ : static_cast<int64_t>(line_rows_.size()) * columns_;
    add_scaled(unscaled, scale, pixels, columns, width, add, sums);
  }

  // scale: null where nothing is scaled. What the epilogue makes of it is stored by an engine that has `multiply_to`.
  void multiply_to(const MatrixEngine& engine, const BFloat16* weights, int64_t width, bool add, const float* scale,
                   float* sums, const Output<BFloat16>& to, const ForwardEpilogue<BFloat16>& epilogue) const {
    MatrixProduct product = product_of(weights, width, add, sums);
    product.scale = scale;
    engine.multiply_to(product, pixels_.data(), to, epilogue);
  }

 private:
  MatrixProduct product_of(const BFloat16* weights, int64_t width, bool add, float* sums) const {
    return {rows_, width, segments_.data(), static_cast<int64_t>(segments_.size()), weights, sums, width, add};
  }

  // Pixels at one distance from each other; the rows of sums before them.
  struct Run {
    const BFloat16* first;
    int64_t distance, count, before;
  };

  // Lines that follow each other at the distance of `pitch_` pixels are one run.
  void find_runs() {
    runs_.clear();
    line_rows_.clear();
    rows_ = 0;
    for (const Piece& piece : strip_.pieces) {
      const int64_t most = pitch_ == 0 ? 1 : piece.count;
      for (int64_t i = 0; i < piece.count; i += most) {
        const int64_t lines = std::min(most, piece.count - i), count = (lines - 1) * pitch_ + columns_;
        runs_.push_back({strip_.pixel(piece, i, 0), distance_, count, rows_});
        for (int64_t l = 0; l < lines; ++l) line_rows_.push_back(rows_ + l * pitch_);
        rows_ += count;
      }
    }
  }

  // What lies between the pixels of a line and those of the next was multiplied, too, and belongs to no output.
  void close_gaps(int64_t width, float* sums) const {
    if (pitch_ <= columns_) return;
    float* to = sums;
    for (const int64_t row : line_rows_) {
      std::memmove(to, sums + row * width, static_cast<size_t>(columns_ * width) * sizeof(float));
      to += columns_ * width;
    }
  }

  // Every pixel with what all taps read, in a row of its own: a few channels at a time would leave the hardware idle.
  void unfold() {
    constexpr int64_t piece = 16; // what is copied at a time: behind a row there is room for that much
    BFloat16* const rows = scratch_of<BFloat16>(3, rows_ * depth_ + piece);
    BFloat16* to = rows;
    for (const Run& run : runs_)
      for (int64_t i = 0; i < run.count; ++i)
        for (const Segment& segment : segments_) {
          const BFloat16* from = run.first + i * run.distance + segment.offset;
          for (int64_t d = 0; d < segment.depth; d += piece) std::memcpy(to + d, from + d, piece * sizeof(BFloat16));
          to += segment.depth;
        }
    runs_.assign(1, {rows, depth_, rows_, 0});
  }

  bool anywhere_, unfolds_;
  Strip<BFloat16, BFloat16> strip_;
  std::vector<Segment> segments_;
  int64_t depth_ = 0, columns_ = 0, line_ = 0, distance_ = 0;
  int64_t pitch_ = 0; // pixels from one line to the next, where lines can be one run
  int64_t rows_ = 0;
  std::vector<const BFloat16*> pixels_; // where they may lie anywhere
  std::vector<Run> runs_;
  std::vector<int64_t> line_rows_;
};

// A strip of all sources; tasks of one strip that a thread takes in turn load it once.
class MatrixOperands {
 public:
  MatrixOperands(const MatrixEngine& engine, const std::vector<Source<BFloat16>>& sources, const Placement& placement,
                 const Cut& cut)
      : holds_(engine), placement_(placement), cut_(cut) {
    for (const Source<BFloat16>& source : sources)
      operands.emplace_back(engine, source, static_cast<int>(1 + operands.size()), sources.size() == 1);
  }

  void load(int64_t strip) {
    if (strip == loaded_) return;
    for (MatrixOperand& operand : operands) operand.load(cut_.begin(strip), cut_.begin(strip + 1));
    offsets = offsets_of(operands[0].pieces(), placement_, cut_.columns);
    loaded_ = strip;
  }

  std::vector<MatrixOperand> operands;
  std::vector<int64_t> offsets;

 private:
  const MatrixTask holds_;
  const Placement& placement_;
  const Cut& cut_;
  int64_t loaded_ = -1;
};

// store: as in `product`; a ForwardStore's is done by the engine where that can.
template <class Store>
void matrix_product(const std::vector<Source<BFloat16>>& sources, const Placement& placement, const Cut& cut,
                    const Store& store) {
  const MatrixEngine* engine = matrix_engine();
  TORCH_CHECK(engine, "weights: packed for matrix hardware, which is not to be used any more");
  const auto keep = [&] { return MatrixOperands(*engine, sources, placement, cut); };
  for_tasks(cut.strips * cut.groups, cut.parallel, keep, [&](int64_t task, MatrixOperands& strips) {
    const int64_t strip = task / cut.groups, group = task % cut.groups, width = cut.width;
    strips.load(strip);
    const int64_t count = static_cast<int64_t>(strips.offsets.size());
    float* sums = scratch(0, std::max(count, strips.operands[0].rows()) * width);
    for (int64_t panel = cut.panels * group / cut.groups; panel < cut.panels * (group + 1) / cut.groups; ++panel) {
      const int64_t columns = cut.columns_of(panel);
      bool add = false, stored = false;
      for (size_t s = 0; s < sources.size(); ++s) {
        const MatrixOperand& operand = strips.operands[s];
        if (operand.depth() == 0) continue;
        const auto* weights = static_cast<const BFloat16*>(sources[s].weights.const_data_ptr()) +
            panel * operand.depth() * width;
        const float* scale = sources[s].scale ? sources[s].scale + panel * width : nullptr;
        if constexpr (std::is_same_v<Store, ForwardStore<BFloat16>>) {
          stored = s + 1 == sources.size() && engine->multiply_to && columns == width;
          if (stored)
            operand.multiply_to(*engine, weights, width, add, scale, sums,
                                store.output(strip, panel, strips.offsets.data()), store.epilogue(panel));
        }
        if (!stored && scale) operand.multiply_scaled(*engine, weights, width, add, scale, columns, sums);
        if (!stored && !scale) operand.multiply(*engine, weights, width, add, sums);
        add = true;
      }
      if (!add) std::fill_n(sums, count * width, 0.0f); // a lattice that no tap reaches
      if (!stored) store(strip, panel, sums, strips.offsets.data());
    }
  });
}

} // namespace fused_resnet
