// mbarrier objects ("Parallel Synchronization and Communication Instructions: mbarrier") and the arrival of what runs
// asynchronously.
#pragma once
#include <utility>

#include "wgmma.h"

namespace ptx {

// ---- work that completes on its own: after `delay` more polls of any thread, or when all threads wait
struct Pending {
  uint32_t delay;
  std::function<void()> complete;
  emu::Fiber* issuer;  // who is blamed for what goes wrong, and where
  const emu::Location* at;
};
inline std::deque<Pending> pending;

// Seed 0: complete at the first poll. Other seeds: at once, or after all threads have asked in vain a few times.
inline uint32_t random_delay() { return emu::seed ? emu::rng() % 3 * 2 * thread_count : 0; }
inline void complete_later(std::function<void()> fn) { pending.push_back({random_delay(), std::move(fn), emu::cur, emu::cur->at}); }
inline void complete_pending(size_t i) {
  Pending p = std::move(pending[i]);
  pending.erase(pending.begin() + i);
  emu::progress++;
  emu::Fiber* running = std::exchange(emu::cur, p.issuer);
  const emu::Location* at = std::exchange(p.issuer->at, p.at);
  p.complete();
  p.issuer->at = at, emu::cur = running;
}
inline void poll() {
  for (Pending& p : pending) p.delay -= p.delay != 0;
  for (size_t i = 0; i < pending.size();) {
    if (pending[i].delay) i++;
    else complete_pending(i);
  }
}
inline bool complete_when_idle() {
  if (pending.empty()) return false;
  auto first = std::min_element(pending.begin(), pending.end(), [](auto& a, auto& b) { return a.delay < b.delay; });
  complete_pending(first - pending.begin());
  return true;
}

// ---- the barrier object
struct Mbarrier {
  uint32_t expected, left;  // arrivals of this phase
  int64_t bytes = 0;        // still to come in this phase
  uint32_t phase = 0;
  int agent;                // stands for the copies that report here; its time is that of the phase
  uint32_t start;           // the agent's time when the barrier was made
  bool unseen = false;      // copies have arrived, and nobody has waited
  uint32_t time() const { return start + phase + 1; }
  Clock arriving, completed;
};
inline std::map<uint32_t, Mbarrier> mbarriers;
inline std::map<uint32_t, std::pair<int, uint32_t>> mbarrier_agents;  // [address]: agent, its newest time
inline Mbarrier& mbarrier_at(uint64_t a) {
  auto i = mbarriers.find(static_cast<uint32_t>(a));
  if (i == mbarriers.end()) emu::die("mbarrier not initialised");
  return i->second;
}
// Every use by a thread has to be ordered after the initialisation.
inline Mbarrier& use_mbarrier(uint64_t a) {
  Mbarrier& b = mbarrier_at(a);
  load_shared(a, 8);
  return b;
}
void mbarrier_init(uint64_t a, uint32_t count) {
  if (mbarriers.count(static_cast<uint32_t>(a))) emu::die("mbarrier initialised twice");
  if (!count || count >= 1u << 20) emu::die("mbarrier.init: count out of range");
  uint64_t image = count;
  store_shared(a, &image, 8);
  Mbarrier& b = mbarriers[static_cast<uint32_t>(a)];
  auto made = mbarrier_agents.find(static_cast<uint32_t>(a));
  if (made == mbarrier_agents.end()) made = mbarrier_agents.insert({static_cast<uint32_t>(a), {new_agent(), 0}}).first;
  b = {count, count, 0, 0, made->second.first, made->second.second};
  b.arriving.clear(), b.completed.clear();
}
void mbarrier_inval(uint64_t a) {
  Mbarrier& b = mbarrier_at(a);
  if (b.bytes || b.left != b.expected) emu::die("mbarrier invalidated in the middle of a phase");
  uint64_t image = ~0ull;
  store_shared(a, &image, 8);
  mbarrier_agents[static_cast<uint32_t>(a)].second = b.time();
  mbarriers.erase(static_cast<uint32_t>(a));
}
inline void complete_phase(Mbarrier& b) {
  if (b.left == 0 && b.bytes < 0) emu::die("mbarrier: more bytes arrived than the phase expects");
  if (b.left || b.bytes) return;
  b.arriving.seen[b.agent] = b.time();
  std::swap(b.completed, b.arriving);
  b.arriving.clear();
  b.arriving.join(b.completed);
  b.phase++, b.left = b.expected, emu::progress++;
}
inline void count_arrivals(Mbarrier& b, uint32_t count) {
  if (count > b.left) emu::die("mbarrier: more arrivals than the phase expects");
  b.left -= count, emu::progress++;
  complete_phase(b);
}
// Returns the state to wait for: the phase arrived at.
uint64_t mbarrier_arrive(uint64_t a, uint32_t count) {
  Mbarrier& b = use_mbarrier(a);
  uint64_t state = b.phase;
  release(b.arriving);
  count_arrivals(b, count);
  return state;
}
void mbarrier_expect_tx(uint64_t a, uint32_t bytes) { use_mbarrier(a).bytes += bytes; }
// A copy of this phase has arrived.
inline void complete_bytes(uint32_t a, uint32_t bytes) {
  Mbarrier& b = mbarrier_at(a);
  b.bytes -= bytes, b.unseen = true;
  complete_phase(b);
}
// Waiting in vain is no progress, so that a deadlock is found; but who only tests may go on, a while.
inline void count_vain_test() {
  static long seen;
  static uint32_t tests;
  if (seen != emu::progress) tests = 0;
  if (tests++ < 64u * thread_count) emu::progress++;
  seen = emu::progress;
}
bool mbarrier_wait_state(uint64_t a, uint64_t state, bool test) {
  Mbarrier& b = use_mbarrier(a);
  poll();
  if (b.phase != state) {
    acquire(b.completed);
    b.unseen = false, emu::progress++;
    return true;
  }
  if (test) count_vain_test();
  emu::cur->wait = "mbarrier";
  emu::yield();
  emu::cur->wait = nullptr;
  return false;
}
// Has the phase of this parity completed? A fresh barrier counts as having completed one of parity 1.
bool mbarrier_wait_parity(uint64_t a, uint32_t parity, bool test) {
  uint32_t phase = use_mbarrier(a).phase;
  return mbarrier_wait_state(a, (phase & 1) == (parity & 1) ? phase : phase - 1, test);
}

inline void mbarrier_block_start() {
  pending.clear(), mbarriers.clear(), mbarrier_agents.clear();
  emu::on_idle = complete_when_idle;
}
inline void mbarrier_thread_exit() {
  if (emu::alive > 1) return;
  while (complete_when_idle()) {
  }
  for (auto& [a, b] : mbarriers) {
    if (b.bytes) emu::die("block ends with bytes that an mbarrier still expects");
    if (b.unseen) emu::die("block ends before a bulk copy to its shared memory was waited for");
  }
}

}  // namespace ptx
