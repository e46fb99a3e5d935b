// The runtime of emulated CUDA C++, compiled once for each sanitizer.
#include "runtime.h"

#include "async_copy.h"
#include "buffers.h"
#include "control.h"
#include "driver.h"
#include "host_api.h"

namespace emu {

NOTSAN Thread& self() {
  if (!cur) die("a device function was called outside a kernel");
  return *cur;
}
NOTSAN Geometry geometry() { return {grid_dim, block_dim, block_index}; }

NOTSAN Here::Here(int line, const char* file) : place{line, file} { self().at = &place; }
NOTSAN Here::~Here() { self().at = &NOWHERE; }

// The line where the first thread waits at the block's barrier. __syncthreads may stand in a branch only if all threads
// of the block take it.
struct BlockBarrier {
  unsigned generation = ~0u;
  Location place = NOWHERE;
};
static BlockBarrier block_barrier;

int sync_block(bool vote) {
  {
    sanitizer::Ignore _;
    const Barrier& b = barriers[0];
    const Location& mine = *self().at;
    if (block_barrier.generation != b.generation || b.arrived == 0) block_barrier = {b.generation, mine};
    if (block_barrier.place.line != mine.line || strcmp(block_barrier.place.text, mine.text))
      die(("divergent __syncthreads: other threads of the block wait at line " + std::to_string(block_barrier.place.line)).c_str());
  }
  return barrier(0, 0, vote);
}

// What a lane brings to a collective.
struct Contribution {
  const char* what;
  unsigned char bytes[56];
};

void sync_warp(uint32_t mask) {
  const Contribution c{"__syncwarp", {}};
  collect(mask, c);
}

uint32_t exchange(const char* what, uint32_t mask, const void* mine, size_t bytes, void* all) {
  sanitizer::Ignore _;
  if (bytes > sizeof(Contribution::bytes)) die("warp collective: too many bytes");
  Contribution c{what, {}};
  memcpy(c.bytes, mine, bytes);
  const auto* lanes = collect(mask, c, false);
  uint32_t present = 0;
  for (int i = 0; i < 32; i++) {
    memcpy(&c, lanes[i], sizeof c);
    if (!(mask >> i & 1) || !c.what) continue;
    if (strcmp(c.what, what))
      die((std::string("warp collective: lanes of one mask execute different functions, ") + what + " and " + c.what).c_str());
    memcpy(static_cast<unsigned char*>(all) + i * bytes, c.bytes, bytes);
    present |= 1u << i;
  }
  return present;
}

void* dynamic_shared_start() { return dynamic_shared().start; }

void* new_shared(size_t bytes, size_t alignment) {
  sanitizer::Ignore _;
  shared_variables().emplace_back("a shared variable", bytes, alignment);
  char* data = shared_variables().back().data;
  fill_nan(data, bytes);
  return data;
}

bool is_shared(const void* address, size_t bytes) {
  sanitizer::Ignore _;
  const char* a = static_cast<const char*>(address);
  auto within = [&](const char* data, size_t size) { return a >= data && a + bytes <= data + size; };
  if (within(dynamic_shared().start, dynamic_shared().bytes)) return true;
  for (const Buffer& b : shared_variables())
    if (within(b.data, b.bytes)) return true;
  return false;
}

// How often in a row a thread tried the same address in vain.
struct Poll {
  const void* address = nullptr;
  int failures = 0;
  int naps = 0;
};
static std::vector<Poll> polls;
constexpr int PATIENCE = 1000;

void polled(const void* address, bool changed) {
  sanitizer::Ignore _;
  Poll& p = polls[cur->id];
  if (changed) progress++;
  if (changed || p.address != address) p.address = address, p.failures = 0;
  else if (++p.failures > PATIENCE) cur->wait = "atomic function that never succeeds", yield();
}

void nap() {
  sanitizer::Ignore _;
  if (++polls[cur->id].naps < PATIENCE) progress++;  // it wakes up, but nobody sleeps for ever
  cur->wait = "__nanosleep";
  yield();
}

static void start_block() {
  for (const Buffer& b : shared_variables()) fill_nan(b.data, b.bytes);
  fill_nan(dynamic_shared().start, dynamic_shared().bytes);
  block_barrier = {};
  async_copies.assign(fibers.size(), {});
  polls.assign(fibers.size(), {});
}

static void check_buffers() {
  for (const auto* list : {&tensors(), &allocations(), &shared_variables()})
    for (const Buffer& b : *list) b.check();
  dynamic_shared().check();
}

static void end_thread() {
  check_async_at_exit();
  sanitizer::Ignore _;
  if (alive == 1) check_buffers();  // the block's last thread
}

void launch(U3 grid, U3 block, size_t dynamic, void (*call)(void*), void* closure) {
  if (cur) die("launch: a kernel cannot launch kernels here");
  if (dynamic > MAX_SHARED) die("launch: more shared memory than a block may have (232448 bytes)");
  if (dynamic > allowed_shared) die("launch: more than 48 KiB of dynamic shared memory need cudaFuncSetAttribute");
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) die("launch: bad grid size");
  if (block.x > 1024 || block.y > 1024 || block.z > 64) die("launch: bad block size");
  on_block_start = start_block, on_thread_exit = end_thread;
  dynamic_shared().resize(dynamic);
  launch(grid, block, 0, [=] { call(closure); });
}

int launch(const PortableLaunch& wanted, void (*call)(void*), void* closure) {
  if (launch_handler) {
    const int status = launch_handler(offset_in_library(wanted.kernel), &wanted.grid.x, &wanted.block.x, wanted.dynamic_shared, wanted.params, wanted.bytes);
    if (status != RUN_IT_HERE) return status;
  }
  if (wanted.dynamic_shared <= MAX_SHARED) allowed_shared = std::max(allowed_shared, wanted.dynamic_shared);
  launch(wanted.grid, wanted.block, wanted.dynamic_shared, call, closure);
  return cudaSuccess;
}

}  // namespace emu
