// The runtime of translated PTX: all parts, the hooks into fibers.h, and the C interface that Python calls.
#include <utility>

#include "tcgen05.h"

namespace ptx {

static Grid current_grid;

static void block_start() {
  current_grid = {emu::block_index, emu::block_dim, emu::grid_dim};
  clocks_block_start(), sync_clocks_block_start();
  global_block_start(), shared_block_start(), async_copy_block_start(), warp_block_start();
  wgmma_block_start(), mbarrier_block_start(), tma_block_start(), tcgen05_block_start();
}
static void thread_exit() {
  async_copy_thread_exit(), wgmma_thread_exit(), tma_thread_exit(), mbarrier_thread_exit(), tcgen05_thread_exit();
}

emu::Thread& me() { return *emu::cur; }
const Grid& grid() { return current_grid; }
void declare_variable(void* address, uint64_t bytes, bool writable) {
  uint64_t lo = reinterpret_cast<uint64_t>(address);
  ranges.push_back({lo, lo + bytes, writable, std::vector<Owner>(writable ? bytes : 0), {}});
}
void trap() { emu::die("trap"); }
void launch(emu::U3 grid, emu::U3 block, uint64_t shared_bytes, KernelFunction kernel, const void* const* args) {
  emu::on_block_start = block_start, emu::on_thread_exit = thread_exit;
  atomic_locations.clear();
  emu::launch(grid, block, shared_bytes, [=] { kernel(args); });
  close_meter();
}

}  // namespace ptx

extern "C" {
void gpu_on_cpu_seed(int seed) { emu::seed = seed; }
void gpu_on_cpu_racing_loads(int treatment) { ptx::racing_loads = static_cast<ptx::RacingLoads>(treatment); }

// Declares the memory that a kernel may touch.
void gpu_on_cpu_ranges(const uint64_t* lo, const uint64_t* bytes, const int* writable, int n, int metering) {
  ptx::ranges.clear();
  for (int i = 0; i < n; i++) ptx::ranges.push_back({lo[i], lo[i] + bytes[i], writable[i] != 0, std::vector<ptx::Owner>(writable[i] ? bytes[i] : 0), {}});
  ptx::declared_ranges = n, ptx::metering = metering != 0;
}

// Bytes of shared memory that lanes of one warp wrote with different values in one instruction, since the last call.
uint64_t gpu_on_cpu_collisions() { return std::exchange(ptx::collisions, 0); }

// For every declared range and kind of access: requested, sectors, block_sectors, unique_sectors (bytes), instructions.
void gpu_on_cpu_traffic(uint64_t* out) {
  for (size_t i = 0; i < ptx::declared_ranges; i++)
    for (ptx::Meter& m : ptx::ranges[i].meters) {
      *out++ = m.requested;
      for (uint64_t sectors : {m.sectors, m.block_sectors, m.unique_sectors}) *out++ = sectors * ptx::SECTOR;
      *out++ = m.instructions;
    }
}
}
