#include "merge.h"

#include "limits.h"
#include "merge_launch.h"

namespace fused_resnet::cuda {

namespace {

constexpr int64_t ROWS_IN_FLIGHT = 8, TALLEST = 128; // with 16 bytes of a row, threads of a block in whole sectors

// Up to 8192 parts one launch merges: blocks have most of their threads in one column then. Of more, blocks merge 512
// each first.
Rows merged_rows(int64_t count, int64_t columns, int numbers) {
  const int64_t per_block = count <= limit(8192, 8) ? count : limit(512, 5);
  const int64_t height = std::clamp<int64_t>(cdiv(per_block, ROWS_IN_FLIGHT), 1, TALLEST);
  Rows rows = rows_of(count, columns, numbers, static_cast<int>(BLOCK / height));
  rows.per_block = per_block;
  return rows;
}

} // namespace

Tensor merged_sums(const Tensor& parts, const Device& device) {
  const int64_t count = parts.size(0), columns = parts.numel() / count;
  if (count == 1) return parts.select(0, 0);
  const int numbers = numbers_per_access(Storage::fp32, columns, {data(parts)});
  const Rows rows = merged_rows(count, columns, numbers);
  Tensor merged = new_vectors(parts, {rows.parts(), parts.size(1), parts.size(2)});
  const MergeSums problem{parts.const_data_ptr<float>(), floats(merged), rows};
  check_launch(launch_merge_sums(problem, numbers, device.stream), "merged_sums");
  return merged_sums(merged, device);
}

std::tuple<Tensor, Tensor> merged_moments(const Tensor& mean, const Tensor& m2, int64_t rows_per_tile, int64_t rows,
                                          const Device& device) {
  const int64_t tiles = mean.size(0), channels = mean.size(1);
  const int numbers = numbers_per_access(Storage::fp32, channels, {data(mean), data(m2)});
  const Rows tile_rows = merged_rows(tiles, channels, numbers);
  const int64_t parts = tile_rows.parts();
  Tensor merged_mean = new_vectors(mean, {parts, channels}), merged_m2 = new_vectors(mean, {parts, channels});
  const MergeMoments problem{mean.const_data_ptr<float>(),
                             m2.const_data_ptr<float>(),
                             floats(merged_mean),
                             floats(merged_m2),
                             rows_per_tile,
                             rows,
                             tile_rows};
  check_launch(launch_merge_moments(problem, numbers, device.stream), "merged_moments");
  if (parts == 1) return {merged_mean.select(0, 0), merged_m2.select(0, 0)};
  return merged_moments(merged_mean, merged_m2, rows_per_tile * tile_rows.per_block, rows, device);
}

} // namespace fused_resnet::cuda
