// Global memory: only what was declared may be touched, with order between threads and between blocks, and a meter of
// traffic.
#pragma once
#include <set>
#include <unordered_map>
#include <utility>

#include "api.h"
#include "clocks.h"

namespace ptx {

constexpr int SECTOR = 32;

// Who wrote a byte last.
struct Owner {
  uint32_t block = 0;  // number + 1; 0: nobody
  uint32_t block_time = 0;
  int16_t thread = -1;
  uint32_t time = 0;
};
// Bytes of traffic: asked for, in sectors per warp instruction, per block and per launch; and warp instructions.
struct Meter {
  uint64_t requested = 0, sectors = 0, block_sectors = 0, unique_sectors = 0, instructions = 0;
  std::vector<uint32_t> last_block;  // [sector]
};
struct Range {
  uint64_t lo, hi;
  bool writable;
  std::vector<Owner> owners;  // [byte], of writable ranges
  Meter meters[3];            // [Access]
};
inline std::vector<Range> ranges;
inline size_t declared_ranges;  // those behind them are variables of the module
inline bool metering = false;

inline uint32_t block_number() {
  return emu::block_index.x + emu::grid_dim.x * (emu::block_index.y + emu::grid_dim.y * emu::block_index.z) + 1;
}

// ---- order between blocks. Blocks run one after another, so a value is always there; whether it would be on a GPU
// depends on a chain of atomics: a block releases by an atomic (with release semantics, or after a device-wide fence)
// and another acquires by one on the same address. Kept for whole blocks, not for threads.
struct BlockTimes {
  std::unordered_map<uint32_t, uint32_t> times;  // block -> its time
  void join(const BlockTimes& o) {
    for (auto& [b, t] : o.times) times[b] = std::max(times[b], t);
  }
};
inline std::unordered_map<uint64_t, BlockTimes> atomic_locations;
inline BlockTimes known_blocks;  // by the running block
inline uint32_t block_time, fenced_block_time;

inline void order_blocks(uint64_t address, bool release_now) {
  BlockTimes& location = atomic_locations[address];
  known_blocks.join(location);
  if (release_now) fenced_block_time = block_time++;
  if (fenced_block_time) {
    location.join(known_blocks);
    location.times[block_number()] = fenced_block_time;
  }
}
void fence(bool device) {
  if (device) fenced_block_time = block_time++;
}
inline bool other_block_unordered(const Owner& o) {
  if (!o.block || o.block == block_number()) return false;
  auto known = known_blocks.times.find(o.block);
  return known == known_blocks.times.end() || known->second < o.block_time;
}

// ---- the meter. The lanes of a warp come one after another, so an instruction's sectors are collected until the end
// of the block: by warp, tensor, instruction and the how-manyth execution of it by the lane. A negative site is one more
// piece of an instruction that touches several places.
struct WarpAccess {
  Range* range;
  Access kind;
  std::set<uint64_t> sectors;
};
inline std::unordered_map<uint64_t, WarpAccess> open_accesses;
inline std::vector<std::unordered_map<int, uint32_t>> executions;  // [thread][site]

inline void count_access(Range& r, uint64_t a, int n, int site, Access kind) {
  if (!n) return;
  Meter& m = r.meters[kind];
  size_t t = emu::cur->id;
  if (executions.size() <= t) executions.resize(t + 1);
  uint32_t& execution = executions[t][std::abs(site)];
  execution += site > 0;
  uint64_t key = uint64_t(t / 32) << 59 | uint64_t(&r - ranges.data()) << 50 | uint64_t(std::abs(site)) << 32 | execution;
  WarpAccess& w = open_accesses.try_emplace(key, WarpAccess{&r, kind, {}}).first->second;
  m.requested += n;
  if (m.last_block.empty()) m.last_block.resize((r.hi - r.lo) / SECTOR + 2);
  uint64_t base = r.lo / SECTOR;
  for (uint64_t s = a / SECTOR; s <= (a + n - 1) / SECTOR; s++) {
    w.sectors.insert(s);
    uint32_t& last = m.last_block[s - base];
    m.unique_sectors += last == 0, m.block_sectors += last != block_number();
    last = block_number();
  }
}
struct Pieces {  // the sites of an instruction's pieces
  int site;
  int next() { return std::exchange(site, -std::abs(site)); }
};
inline void close_meter() {
  for (auto& [key, w] : open_accesses) w.range->meters[w.kind].sectors += w.sectors.size(), w.range->meters[w.kind].instructions++;
  open_accesses.clear(), executions.clear();
}

// ---- checked access
// A load that races with a store of its own block gets the old value or the new one. Triton's replicas do that (of the
// threads that hold one element one stores, and others may load after it), and use nothing of what they get. So the
// host lets a launch that was stopped for it run again, with what such loads get and with its complement: only if
// that shows in the results is it a fault.
enum class RacingLoads { STOP, KEEP, INVERT };
inline RacingLoads racing_loads = RacingLoads::STOP;

inline Range& find_range(uint64_t a, uint64_t n) {
  static size_t last = 0;
  auto holds = [&](const Range& r) { return a >= r.lo && a + n <= r.hi && a + n >= a; };
  if (last < ranges.size() && holds(ranges[last])) return ranges[last];
  for (size_t i = 0; i < ranges.size(); i++)
    if (holds(ranges[i])) return ranges[last = i];
  emu::die("global access outside every argument");
}
inline void check_owner(Range& r, uint64_t a, int n, Access kind, const void* value, bool* racing = nullptr) {
  for (int i = 0; i < n; i++) {
    Owner& o = r.owners[a + i - r.lo];
    bool changes = kind != STORE || static_cast<const char*>(value)[i] != reinterpret_cast<const char*>(a)[i];
    if (kind == LOAD && other_block_unordered(o)) emu::die("global-memory race: reads what another block wrote");
    if (kind == STORE && changes && other_block_unordered(o)) emu::die("global-memory race: two blocks write one address");
    if (o.block == block_number() && kind != ATOMIC && changes && !ordered(o.thread, o.time)) {
      if (kind == STORE) emu::die("global-memory race: two threads write one address, no barrier between");
      if (!racing || racing_loads == RacingLoads::STOP) emu::die("global-memory race: reads another thread's value, no barrier between");
      *racing = true;
    }
    if (kind == STORE) o = {block_number(), block_time, static_cast<int16_t>(emu::cur->id), now()};
  }
}
inline char* global_at(uint64_t a, int n, int align, int site, Access kind, const void* value, bool* racing = nullptr) {
  if (a % align) emu::die("misaligned global access");
  Range& r = find_range(a, n);
  if (metering) count_access(r, a, n, site, kind);
  if (kind != LOAD && !r.writable) emu::die("write to an input");
  if (r.writable) check_owner(r, a, n, kind, value, racing);
  return reinterpret_cast<char*>(a);
}

inline void global_block_start() {
  close_meter();
  known_blocks.times.clear();
  block_time = 1, fenced_block_time = 0;
}

}  // namespace ptx
