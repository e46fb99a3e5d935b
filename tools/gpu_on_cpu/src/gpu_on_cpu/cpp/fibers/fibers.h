// The CUDA execution model on one CPU thread: a fiber for every CUDA thread, blocks one after another.
// No CUDA headers. Used by the PTX runtime (ptx/) and by the CUDA C++ emulator (cuda/).
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "sanitizers.h"
#include "thread.h"

#if !defined(__x86_64__)
#error "the fibers switch stacks with x86-64 assembly; other processors are not supported"
#endif

namespace emu {

// Saves the callee-saved registers of the System V ABI and continues on another stack.
extern "C" void emu_switch(void** save, void* to);
asm(".text\n.weak emu_switch\nemu_switch:\n push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    " mov %rsp,(%rdi); mov %rsi,%rsp\n pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n");

struct Fiber : Thread {
  void* sp = nullptr;
  sanitizer::Stack stack;
  bool done = false;
  const char* wait = nullptr;  // what it waits for (deadlock report)
};

// A rendezvous of the lanes of one mask in one warp: every lane brings up to 64 bytes and sees everybody's. Results
// are kept for two generations, because a fast lane may come back before a slow one has left.
struct Collective {
  uint32_t arrived = 0, generation = 0;
  unsigned char in[32][64], out[2][32][64];
};

// One of the 16 barriers of a block ("bar", "barrier").
struct Barrier {
  unsigned arrived = 0, expected = 0, generation = 0;
  int votes[2] = {0, 0};
};

constexpr size_t STACK_BYTES = 128 << 10;
constexpr unsigned BARRIERS = 16, WARP = 32, MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 232448;  // bytes a block may have on sm_90 and sm_100

inline Fiber* cur = nullptr;
inline void* main_sp;
inline sanitizer::Stack main_stack;
inline std::vector<Fiber> fibers;
inline std::vector<char*> stack_memory;
inline std::vector<std::map<uint32_t, Collective>> collectives;  // [warp][mask]
inline std::vector<uint32_t> ended;                               // [warp] lanes that have ended
inline Barrier barriers[BARRIERS];
inline U3 grid_dim, block_dim, block_index;
inline char* shared = nullptr;  // dynamic shared memory
inline size_t shared_bytes = 0;
inline unsigned alive;
inline std::function<void()> body;
inline long progress;  // grows with everything that is not waiting
inline int seed = getenv("GPU_ON_CPU_SEED") ? atoi(getenv("GPU_ON_CPU_SEED")) : 0;
inline std::mt19937 rng;
inline char end_tag;  // orders blocks for ThreadSanitizer

// Hooks of the two front ends.
inline void (*on_block_start)() = nullptr;
inline void (*on_thread_exit)() = nullptr;
inline bool (*on_idle)() = nullptr;  // all threads wait: may something asynchronous still arrive?

// A report that a program can read: tab-separated after the tag.
[[noreturn]] __attribute__((weak)) void die(const char* reason) {
  sanitizer::Ignore _;
  const Thread nobody;
  const Thread& t = cur ? *cur : nobody;
  fprintf(stderr, "gpu_on_cpu-fault\t%s\t%u %u %u\t%u %u %u\t%d\t%s\n", reason, block_index.x, block_index.y, block_index.z,
          t.tid.x, t.tid.y, t.tid.z, t.at->line, t.at->text);
  fflush(stderr);
  abort();
}

NOTSAN inline void yield() {
  Fiber* f = cur;
  sanitizer::before_switch(f->stack, main_stack, f->done);
  emu_switch(&f->sp, main_sp);
  sanitizer::after_switch(f->stack);
}

NOTSAN inline void resume(Fiber& f) {
  if (f.done) return;
  cur = &f;
  sanitizer::before_switch(main_stack, f.stack, false);
  emu_switch(&main_sp, f.sp);
  sanitizer::after_switch(main_stack);
}

// A barrier completes when as many threads have come as it expects; threads that have ended count as having come
// when it expects the whole block.
inline bool complete(Barrier& b) {
  unsigned needed = b.expected ? b.expected : alive;
  if (b.arrived < needed) return false;
  if (b.arrived > needed) die("barrier: more threads arrived than it expects");
  b.arrived = 0, b.generation++, progress++;
  return true;
}

// Non-blocking arrival. count = 0: the whole block.
inline Barrier& arrive(unsigned id, unsigned count, bool vote = false) {
  if (id >= BARRIERS) die("barrier: number out of range");
  if (count % WARP) die("barrier: thread count is not a multiple of the warp size");
  Barrier& b = barriers[id];
  if (b.arrived == 0) b.expected = count, b.votes[b.generation & 1] = 0;
  else if (b.expected != count) die("barrier: threads disagree about the thread count");
  b.votes[b.generation & 1] += vote, b.arrived++, progress++;
  sanitizer::release(&b.votes[b.generation & 1]);  // not &b: a slow thread must not see the next generation's arrivals
  complete(b);
  return b;
}

// bar.sync / __syncthreads; returns how many threads brought vote = true.
inline int barrier(unsigned id = 0, unsigned count = 0, bool vote = false) {
  sanitizer::Ignore _;
  Fiber* f = cur;
  unsigned generation = barriers[id % BARRIERS].generation;
  Barrier& b = arrive(id, count, vote);
  while (b.generation == generation && !complete(b)) f->wait = "barrier", yield();
  f->wait = nullptr;
  sanitizer::acquire(&b.votes[generation & 1]);
  return b.votes[generation & 1];
}

// A collective is complete when all lanes of its mask have come or ended; those that ended bring zeros.
inline void complete(Collective& c, uint32_t mask, uint32_t lanes_ended) {
  if (mask & ~(c.arrived | lanes_ended)) return;
  for (unsigned i = 0; i < WARP; i++)
    if (mask & ~c.arrived & 1u << i) memset(c.in[i], 0, sizeof c.in[i]);
  memcpy(c.out[c.generation & 1], c.in, sizeof c.in);
  c.arrived = 0, c.generation++, progress++;
}

// Every lane of `mask` brings a value; all see all of them. `orders`: it orders memory accesses as a barrier does.
template <class T>
inline const unsigned char (*collect(uint32_t mask, const T& v, bool orders = true))[64] {
  static_assert(sizeof(T) <= 64);
  sanitizer::Ignore _;
  Fiber* f = cur;
  if (!(mask >> f->lane & 1)) die("warp collective: the lane is not in its own mask");
  Collective& c = collectives[f->warp][mask];
  uint32_t generation = c.generation;
  memcpy(c.in[f->lane], &v, sizeof(T));
  c.arrived |= 1u << f->lane, progress++;
  if (orders) sanitizer::release(c.out[generation & 1]);
  for (complete(c, mask, ended[f->warp]); c.generation == generation; complete(c, mask, ended[f->warp]))
    f->wait = "warp collective", yield();
  f->wait = nullptr;
  if (orders) sanitizer::acquire(c.out[generation & 1]);
  return c.out[generation & 1];
}

template <class T>
inline T lane_value(const unsigned char (*all)[64], uint32_t mask, int source) {
  sanitizer::Ignore _;
  if (!(mask >> source & 1)) die("warp collective: value of a lane outside the mask");
  T r;
  memcpy(&r, all[source], sizeof r);
  return r;
}

NOTSAN inline void run_thread() {
  sanitizer::first_switch(main_stack);
  body();
  if (on_thread_exit) on_thread_exit();
  {
    sanitizer::Ignore _;
    progress++, alive--, cur->done = true;
    ended[cur->warp] |= 1u << cur->lane;
  }
  for (Barrier& b : barriers) sanitizer::release(&b.votes[b.generation & 1]);
  sanitizer::release(&end_tag);
  yield();
  abort();
}

inline void start_fibers(unsigned n) {
  fibers.assign(n, Fiber{});
  collectives.assign((n + WARP - 1) / WARP, {});
  ended.assign(collectives.size(), 0);
  if (n % WARP) ended.back() = ~0u << n % WARP;  // lanes that the last warp lacks
  std::fill_n(barriers, BARRIERS, Barrier{});
  alive = n;
  while (stack_memory.size() < n) stack_memory.push_back(static_cast<char*>(aligned_alloc(4096, STACK_BYTES)));
  for (unsigned i = 0; i < n; i++) {
    Fiber& f = fibers[i];
    f.tid = {i % block_dim.x, i / block_dim.x % block_dim.y, i / (block_dim.x * block_dim.y)};
    f.id = i, f.lane = i % WARP, f.warp = i / WARP;
    f.stack.create(stack_memory[i], STACK_BYTES);
    void** p = reinterpret_cast<void**>(stack_memory[i] + STACK_BYTES - 64);
    *--p = nullptr, *--p = reinterpret_cast<void*>(run_thread);
    for (int k = 0; k < 6; k++) *--p = nullptr;  // the registers that emu_switch pops
    f.sp = p;
  }
}

// Seed 0: all threads in lock step from wait to wait. Other seeds: the warps in random order, each as far as it can
// go, its lanes from a random first lane in a random direction.
inline void schedule_round() {
  unsigned n = fibers.size();
  if (!seed) {
    for (Fiber& f : fibers) resume(f);
    return;
  }
  std::vector<unsigned> order(collectives.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = i;
  std::shuffle(order.begin(), order.end(), rng);
  for (unsigned w : order) {
    unsigned first = rng() % WARP, backwards = rng() & 1;
    for (long before = -1; before != progress;) {
      before = progress;
      for (unsigned j = 0; j < WARP; j++) {
        unsigned i = w * WARP + ((backwards ? WARP - 1 - j : j) + first) % WARP;
        if (i < n) resume(fibers[i]);
      }
    }
  }
}

// Names every place where threads wait, with their number, and blames the first of the smallest group.
[[noreturn]] inline void die_of_deadlock() {
  std::map<std::pair<int, std::string>, std::vector<Fiber*>> groups;
  for (Fiber& f : fibers)
    if (!f.done) groups[{f.at->line, f.wait ? f.wait : "?"}].push_back(&f);
  std::string reason = "deadlock:";
  for (auto& [place, waiting] : groups) {
    reason += (reason.back() == ':' ? " " : "; ") + std::to_string(waiting.size()) + " threads at a " + place.second;
    if (place.first) reason += " (line " + std::to_string(place.first) + ")";
    if (cur->done || !cur->wait || waiting.size() < groups[{cur->at->line, cur->wait}].size()) cur = waiting[0];
  }
  if (alive < fibers.size()) reason += "; " + std::to_string(fibers.size() - alive) + " ended";
  die(reason.c_str());
}

inline void run_block() {
  sanitizer::Ignore _;
  start_fibers(block_dim.x * block_dim.y * block_dim.z);
  if (on_block_start) on_block_start();
  while (alive) {
    long before = progress;
    schedule_round();
    if (progress == before && alive && !(on_idle && on_idle())) die_of_deadlock();
  }
  for (Barrier& b : barriers)
    if (b.arrived) die("block ends with threads that arrived at a barrier nobody completed");
  for (Fiber& f : fibers) f.stack.destroy();
  sanitizer::acquire(&end_tag);  // blocks are ordered for ThreadSanitizer: it finds races inside a block only
}

inline void launch(U3 grid, U3 block, size_t dynamic_shared, std::function<void()> kernel) {
  uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > MAX_THREADS) die("launch: a block has 1 to 1024 threads");
  if (dynamic_shared > MAX_SHARED) die("launch: more shared memory than a block may have (232448 bytes)");
  size_t padded = (dynamic_shared + 1023) / 1024 * 1024;
  main_stack.adopt_current();
  rng.seed(seed);
  grid_dim = grid, block_dim = block, body = std::move(kernel);
  shared_bytes = dynamic_shared, shared = padded ? static_cast<char*>(aligned_alloc(1024, padded)) : nullptr;
  sanitizer::poison(shared + dynamic_shared, padded - dynamic_shared);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        sanitizer::Ignore _;
        block_index = {x, y, z};
        if (shared) memset(shared, 0xFF, dynamic_shared);  // NaN in every float format
        run_block();
      }
  sanitizer::unpoison(shared, padded);
  free(shared), shared = nullptr, cur = nullptr;
  for (char* s : stack_memory) free(s);
  stack_memory.clear();
}

}  // namespace emu
