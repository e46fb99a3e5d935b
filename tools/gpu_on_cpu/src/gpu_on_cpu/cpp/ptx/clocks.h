// Who knows what: vector clocks (Lamport; FastTrack's epochs) for threads and for asynchronous agents.
//
// Every thread counts its releases. `seen[t]` is the newest release of thread t that is ordered before what this
// thread does now; an access of t at time c is ordered iff seen[t] >= c. An asynchronous agent (the wgmma unit of a
// warp, the tcgen05 unit, a TMA transfer) has an entry too: the newest operation whose completion is known.
// `fenced` is the same for what a fence.proxy.async on the way has made visible to the asynchronous proxy
// (PTX ISA, "Memory Consistency Model: Proxies" and "Causality order").
#pragma once
#include <array>
#include <memory>
#include <vector>

#include "../fibers/fibers.h"

namespace ptx {

constexpr int WGMMA_AGENTS = 32, MAX_DYNAMIC_AGENTS = 64;
inline int thread_count, width;  // of the block; of a clock
inline int next_agent;           // dynamic agents given away

struct Clock {
  std::vector<uint32_t> seen, fenced;
  void clear() {
    seen.assign(width, 0), fenced.assign(width, 0);
  }
  void join(const Clock& other) {
    raise_to(seen.data(), other.seen.data(), width);
    raise_to(fenced.data(), other.fenced.data(), width);
  }

 private:
  // Most of the emulator's time at barriers: `restrict` lets the compiler use vector instructions.
  static void raise_to(uint32_t* __restrict into, const uint32_t* __restrict from, int n) {
    for (int i = 0; i < n; i++) into[i] = std::max(into[i], from[i]);
  }
};

inline std::vector<Clock> clocks;  // [thread]

inline Clock& my_clock() { return clocks[emu::cur->id]; }
inline uint32_t now() { return my_clock().seen[emu::cur->id]; }

inline int wgmma_agent(int warp) { return thread_count + warp; }
inline int tcgen05_agent() { return thread_count + WGMMA_AGENTS; }
inline int new_agent() {
  if (next_agent == MAX_DYNAMIC_AGENTS) emu::die("more asynchronous transfers than the emulator keeps apart");
  return thread_count + WGMMA_AGENTS + 1 + next_agent++;
}

// What an agent (a thread's id, or an asynchronous agent) did at `time` happens before what this thread does now.
inline bool ordered(int agent, uint32_t time) { return agent == emu::cur->id || my_clock().seen[agent] >= time; }
inline void learn(int agent, uint32_t time) {
  uint32_t& t = my_clock().seen[agent];
  t = std::max(t, time);
}

// A synchronisation object: arriving threads release into it, leaving ones acquire.
inline void release(Clock& object) {
  object.join(my_clock());
  my_clock().seen[emu::cur->id]++;
}
inline void acquire(const Clock& object) { my_clock().join(object); }

inline void clocks_block_start() {
  thread_count = emu::fibers.size(), next_agent = 0;
  width = thread_count + WGMMA_AGENTS + 1 + MAX_DYNAMIC_AGENTS;
  clocks.resize(thread_count);
  for (int i = 0; i < thread_count; i++) clocks[i].clear(), clocks[i].seen[i] = 1;
}

// ---- the block's barriers and the warp's
inline std::shared_ptr<Clock> barrier_clocks[emu::BARRIERS];  // of the running generation; who left late has an older one
inline std::vector<std::map<uint32_t, std::array<Clock, 2>>> warp_clocks;  // [warp][mask]

inline std::shared_ptr<Clock> new_clock() {
  auto c = std::make_shared<Clock>();
  c->clear();
  return c;
}
inline std::shared_ptr<Clock> enter_barrier(unsigned id) {
  if (id >= emu::BARRIERS) emu::die("barrier: number out of range");
  std::shared_ptr<Clock>& c = barrier_clocks[id];
  if (emu::barriers[id].arrived) release(*c);
  else c = std::make_shared<Clock>(my_clock()), my_clock().seen[emu::cur->id]++;
  return c;
}

inline void sync_clocks_block_start() { warp_clocks.assign(emu::collectives.size(), {}); }

}  // namespace ptx
