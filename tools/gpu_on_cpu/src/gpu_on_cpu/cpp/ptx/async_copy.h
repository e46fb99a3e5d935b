// cp.async ("Data Movement and Conversion Instructions: Non-bulk copy"), and the barriers of block and warp.
#pragma once
#include <deque>

#include "shared.h"

namespace ptx {

struct Copy {
  uint32_t dst;
  uint64_t src;
  int bytes, valid;  // the rest of the destination becomes zero
};
struct CopyQueue {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};
inline std::vector<CopyQueue> copies;  // [thread]

void cp_async(uint64_t dst, uint64_t src, int bytes, uint64_t valid, int site) {
  check_shared(dst, bytes, bytes);
  if (valid > static_cast<uint64_t>(bytes)) emu::die("cp.async: src-size larger than cp-size");
  if (src % bytes) emu::die("cp.async: misaligned source");
  if (valid) global_at(src, valid, 1, site, LOAD, nullptr);
  begin_flight(static_cast<uint32_t>(dst), bytes);
  copies[emu::cur->id].open.push_back({static_cast<uint32_t>(dst), src, bytes, static_cast<int>(valid)});
}
void cp_async_commit() {
  CopyQueue& q = copies[emu::cur->id];
  q.groups.push_back(std::move(q.open));
  q.open.clear();
}
inline void deliver(const std::vector<Copy>& group) {
  for (const Copy& c : group) {
    memset(emu::shared + c.dst, 0, c.bytes);
    memcpy(emu::shared + c.dst, reinterpret_cast<const char*>(c.src), c.valid);
    end_flight(c.dst, c.bytes, emu::cur->id, now());
  }
}
void cp_async_wait(uint64_t keep) {
  CopyQueue& q = copies[emu::cur->id];
  for (; q.groups.size() > keep; q.groups.pop_front()) deliver(q.groups.front());
}
void cp_async_wait_all() {
  cp_async_commit();
  cp_async_wait(0);
}

// ---- "bar", "barrier": order everything before with everything after
void barrier_sync(uint32_t id, uint32_t count) { barrier_reduce(id, count, false); }
int barrier_reduce(uint32_t id, uint32_t count, bool vote) {
  std::shared_ptr<Clock> c = enter_barrier(id);
  int votes = emu::barrier(id, count, vote);
  acquire(*c);
  return votes;
}
void barrier_arrive(uint32_t id, uint32_t count) {
  if (!count) emu::die("barrier.arrive needs a thread count");
  enter_barrier(id);
  emu::arrive(id, count);
}

// ---- "barrier.cluster" of a cluster of one block: all threads that have not ended arrive, then wait
struct ClusterBarrier {
  unsigned arrived = 0, generation = 0;
  std::shared_ptr<Clock> clock;
};
struct ClusterArrival {
  bool open = false;
  unsigned generation = 0;
  std::shared_ptr<Clock> clock;
};
inline ClusterBarrier cluster_barrier;
inline std::vector<ClusterArrival> cluster_arrivals;  // [thread]

void cluster_arrive() {
  ClusterBarrier& b = cluster_barrier;
  ClusterArrival& mine = cluster_arrivals[emu::cur->id];
  if (mine.open) emu::die("barrier.cluster.arrive twice without wait");
  if (b.arrived++ == 0) b.clock = new_clock();
  release(*b.clock);
  mine = {true, b.generation, b.clock}, emu::progress++;
}
void cluster_wait() {
  ClusterBarrier& b = cluster_barrier;
  ClusterArrival& mine = cluster_arrivals[emu::cur->id];
  if (!mine.open) emu::die("barrier.cluster.wait without arrive");
  while (b.generation == mine.generation) {
    if (b.arrived >= emu::alive) {
      b.arrived = 0, b.generation++, emu::progress++;
      break;
    }
    emu::cur->wait = "cluster barrier";
    emu::yield();
    emu::cur->wait = nullptr;
  }
  acquire(*mine.clock);
  mine = {};
}
void warp_sync(uint32_t mask) {
  uint32_t generation = emu::collectives[emu::cur->warp][mask].generation, arrived = emu::collectives[emu::cur->warp][mask].arrived;
  Clock& c = warp_clocks[emu::cur->warp][mask][generation & 1];
  if (!arrived) c.clear();
  release(c);
  emu::collect(mask, 0);
  acquire(c);
}

inline void async_copy_block_start() {
  copies.assign(thread_count, {});
  cluster_barrier = {}, cluster_arrivals.assign(thread_count, {});
}
inline void async_copy_thread_exit() {
  CopyQueue& q = copies[emu::cur->id];
  if (!q.open.empty()) emu::die("thread exits with cp.async not committed");
  for (auto& group : q.groups)
    if (!group.empty()) emu::die("thread exits with cp.async in flight");
}

}  // namespace ptx
