// What emulated kernels and launchers call of the runtime. Light, because it is compiled with every kernel; the runtime
// itself (runtime.cpp) is compiled once for each sanitizer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "../fibers/thread.h"

namespace emu {

// The thread that runs, and where it is in the grid.
Thread& self();
struct Geometry {
  U3 grid, block, index;
};
Geometry geometry();

// While it lives, error reports name this line of the source.
struct Here {
  Here(int line, const char* file);
  ~Here();
  Here(const Here&) = delete;
  Location place;
};
// A last parameter that holds the line of the caller.
#define EMU_HERE [[maybe_unused]] const ::emu::Here& here = ::emu::Here(__builtin_LINE(), __builtin_FILE())

// __syncthreads: returns how many threads brought `vote`.
int sync_block(bool vote);
void sync_warp(uint32_t mask);

// Every lane of `mask` brings `bytes` bytes (56 at most) for the instruction called `what` and gets those of all lanes
// in all[lane]. Returns the lanes that brought something: those of the mask that had not ended.
uint32_t exchange(const char* what, uint32_t mask, const void* mine, size_t bytes, void* all);

// Memory of a __shared__ variable; `extern __shared__` arrays start at dynamic_shared_start().
void* new_shared(size_t bytes, size_t alignment);
void* dynamic_shared_start();
bool is_shared(const void* address, size_t bytes);

template <class T>
T& shared_variable(size_t alignment = 1) {
  return *static_cast<T*>(new_shared(sizeof(T), alignment > alignof(T) ? alignment : alignof(T)));
}

// cp.async. The destination holds NaN from the copy to the wait. groups < 0: wait for all, committed or not.
void async_copy(void* to, const void* from, int bytes, int valid);
void async_commit();
void async_wait(int groups);

// A compare-and-swap or exchange at `address` that changed nothing, or did. Threads that fail for long let others run.
void polled(const void* address, bool changed);
void nap();

// kernel<<<...>>>(...): runs `call(closure)` in every thread of the grid.
void launch(U3 grid, U3 block, size_t dynamic_shared, void (*call)(void*), void* closure);

// portable::launch: the same, unless whoever executes the kernel's PTX takes the launch. Returns a cudaError_t.
struct PortableLaunch {
  const void* kernel;
  U3 grid, block;
  size_t dynamic_shared;
  const void* params;
  size_t bytes;
};
int launch(const PortableLaunch& wanted, void (*call)(void*), void* closure);

// An argument of the launcher, as the driver was given it.
struct Argument {
  enum Kind { POINTER, INTEGER, REAL } kind;
  void* pointer;
  long long integer;
  double real;
  size_t item;  // bytes of one element behind the pointer
};
[[noreturn]] void wrong_argument(int index, const char* what);
[[noreturn]] void wrong_count(int given, int expected);
[[noreturn]] void failed_launcher(long long status);

struct Launcher {
  const char* name;
  void (*call)(const Argument* arguments, int count);
};
int drive(const Launcher* launchers, int count, int argc, char** argv);

}  // namespace emu
