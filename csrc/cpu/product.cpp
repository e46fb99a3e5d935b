#include "product.h"

#include <memory>

namespace fused_resnet {

namespace {

constexpr int64_t strip_floats = 57344;  // 224 KiB: about half of a second-level cache
constexpr int64_t least_pixels = 96;     // fewer would not be worth reading all weights
constexpr int64_t groups_per_task = 3;    // of one strip: they cost nothing, and a short one is waited for in the end
constexpr int64_t winograd_pixels = 192; // 48 tiles: the same for Winograd's, of which there are more

// Lines whose input, halo included, fills a strip.
int64_t fitting_lines(const Gather& gather) {
  const StripLayout layout(gather, gather.channels, 0, false);
  int64_t lines = 1;
  while (lines < gather.out_lines() && (lines + 1) * gather.cols.out <= strip_pixels &&
         layout.lines(lines + 1) * layout.line <= strip_floats)
    ++lines;
  return lines;
}

} // namespace

float* scratch(int slot, int64_t floats) {
  constexpr size_t alignment = 64;
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t(alignment)); }
  };
  struct Buffer {
    std::unique_ptr<float[], Free> data;
    int64_t size = 0;
  };
  thread_local std::array<Buffer, 4> buffers;
  Buffer& buffer = buffers.at(static_cast<size_t>(slot));
  if (buffer.size < floats) {
    buffer.data.reset(new (std::align_val_t(alignment)) float[static_cast<size_t>(floats)]);
    buffer.size = floats;
  }
  return buffer.data.get();
}

Cut::Cut(const Gather& gather, int64_t depth, int64_t channels, bool winograd)
    : lines(gather.out_lines()), columns(gather.cols.out), width(product_kernels().panel), channels(channels) {
  panels = divide_up(channels, width);
  parallel = lines * columns * channels * std::max<int64_t>(depth, 1) >= parallel_depth;
  const int64_t tasks = parallel ? tasks_per_thread * at::get_num_threads() : 1;
  if (winograd) {
    lines_per_strip = divide_up(winograd_pixels, columns);
    const int64_t unit = lines_per_strip > gather.rows.out ? gather.rows.out : 2; // whole images, or pairs of lines
    lines_per_strip = divide_up(lines_per_strip, unit) * unit;
  } else {
    const int64_t most_lines = fitting_lines(gather);
    lines_per_strip = std::clamp(divide_up(lines, tasks), std::min(most_lines, divide_up(least_pixels, columns)), most_lines);
    lines_per_strip = divide_up(lines, divide_up(lines, lines_per_strip)); // no strip of what is left over
    if (columns == 1) lines_per_strip = divide_up(lines_per_strip, tile_pixels) * tile_pixels;
  }
  strips = divide_up(lines, lines_per_strip);
  groups = std::min(panels, divide_up(parallel ? groups_per_task * tasks : 1, strips));
}

bool winograd_fits(const Gather& gather, int64_t channels) {
  constexpr int64_t least_channels = 32;
  const bool filter = gather.rows.taps.size() == 3 && gather.cols.taps.size() == 3 && gather.rows.dense() &&
      gather.cols.dense() && gather.rows.step == 1 && gather.cols.step == 1;
  return filter && std::min(gather.channels, channels) >= least_channels &&
      gather.out_lines() * gather.cols.out >= 2 * winograd_pixels;
}

bool winograd_pays(const Gather& gather, int64_t channels) {
  return winograd_fits(gather, channels) && gather.out_lines() * gather.cols.out >= 2 * gather.channels;
}

} // namespace fused_resnet
