// The built-in variables and statements of CUDA C++.
#pragma once
#include <utility>

#include "runtime.h"

#define __launch_bounds__(...)
#define GPU_ON_CPU_EMULATOR 1

namespace emu {

inline uint3 to_uint3(U3 v) { return {v.x, v.y, v.z}; }
inline dim3 to_dim3(U3 v) { return {v.x, v.y, v.z}; }
inline U3 from_dim3(dim3 v) { return {v.x, v.y, v.z}; }

// kernel<<<grid, block, shared, stream>>>(a, b) is rewritten to
// Launch(grid, block, shared, stream).of([&](auto... v) { kernel(v...); })(a, b).
class Launch {
 public:
  Launch(dim3 grid, dim3 block, size_t shared = 0, cudaStream_t = nullptr) : grid_(grid), block_(block), shared_(shared) {}

  template <class Kernel>
  auto of(Kernel kernel) const {
    return [*this, kernel](auto... arguments) {  // evaluated once, as on a GPU
      auto call = [&] { kernel(arguments...); };
      launch(from_dim3(grid_), from_dim3(block_), shared_, [](void* c) { (*static_cast<decltype(call)*>(c))(); }, &call);
    };
  }

 private:
  dim3 grid_, block_;
  size_t shared_;
};

template <class P>
P convert(const Argument& a, int index) {
  using Pointee = std::remove_cv_t<std::remove_pointer_t<P>>;
  if constexpr (std::is_pointer_v<P>) {
    if (a.kind != Argument::POINTER) wrong_argument(index, "the launcher takes a pointer here");
    if constexpr (std::is_arithmetic_v<Pointee>)
      if (a.item && a.item != sizeof(Pointee) && sizeof(Pointee) > 1)
        wrong_argument(index, "the tensor's elements have another size than what the launcher's pointer points to");
    return static_cast<P>(a.pointer);
  } else if constexpr (std::is_integral_v<P>) {
    if (a.kind != Argument::INTEGER) wrong_argument(index, "the launcher takes an integer here");
    if (!std::is_same_v<P, unsigned long long> && !std::is_same_v<P, unsigned long> && static_cast<P>(a.integer) != a.integer)
      wrong_argument(index, "the integer does not fit the launcher's parameter");
    return static_cast<P>(a.integer);
  } else {
    static_assert(std::is_floating_point_v<P>, "a launcher takes pointers, integers and floating-point numbers");
    if (a.kind == Argument::POINTER) wrong_argument(index, "the launcher takes a number here");
    return static_cast<P>(a.kind == Argument::REAL ? a.real : a.integer);
  }
}

template <class R, class... P, size_t... I>
void call_launcher(R (*launcher)(P...), const Argument* a, std::index_sequence<I...>) {
  if constexpr (std::is_void_v<R>) {
    launcher(convert<P>(a[I], I)...);
  } else if (auto status = launcher(convert<P>(a[I], I)...); static_cast<long long>(status) != 0) {
    failed_launcher(static_cast<long long>(status));
  }
}

// Calls the launcher with arguments of its own parameter types. A last pointer that is not given is a null stream.
template <class R, class... P>
void call_launcher(R (*launcher)(P...), const Argument* given, int count) {
  constexpr int expected = sizeof...(P);
  Argument all[expected + 1] = {};
  bool stream = false;
  if constexpr (expected > 0) stream = std::is_pointer_v<std::tuple_element_t<expected - 1, std::tuple<P...>>>;
  if (count != expected && !(stream && count == expected - 1)) wrong_count(count, expected);
  for (int i = 0; i < count; i++) all[i] = given[i];
  call_launcher(launcher, all, std::index_sequence_for<P...>());
}

template <auto launcher>
void adapt(const Argument* given, int count) {
  call_launcher(launcher, given, count);
}

}  // namespace emu

#define threadIdx (::emu::to_uint3(::emu::self().tid))
#define blockIdx (::emu::to_uint3(::emu::geometry().index))
#define blockDim (::emu::to_dim3(::emu::geometry().block))
#define gridDim (::emu::to_dim3(::emu::geometry().grid))
constexpr int warpSize = 32;

inline void __syncthreads(EMU_HERE) { emu::sync_block(false); }
inline int __syncthreads_count(int p, EMU_HERE) { return emu::sync_block(p != 0); }
inline int __syncthreads_or(int p, EMU_HERE) { return emu::sync_block(p != 0) > 0; }
inline int __syncthreads_and(int p, EMU_HERE) { return emu::sync_block(p == 0) == 0; }
// One thread runs at a time, so memory is always in order.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { emu::nap(); }
[[noreturn]] inline void __trap(EMU_HERE) { emu::die("__trap"); }

#define EMU_LOAD(name) \
  template <class T>   \
  T name(const T* p) { \
    return *p;         \
  }
#define EMU_STORE(name)           \
  template <class T>              \
  void name(T* p, const T& v) {   \
    *p = v;                       \
  }
EMU_LOAD(__ldg) EMU_LOAD(__ldca) EMU_LOAD(__ldcg) EMU_LOAD(__ldcs) EMU_LOAD(__ldlu) EMU_LOAD(__ldcv)
EMU_STORE(__stwb) EMU_STORE(__stcg) EMU_STORE(__stcs) EMU_STORE(__stwt)

// __device__ and __constant__ variables are plain variables.
template <class T>
cudaError_t cudaMemcpyToSymbol(T& symbol, const void* from, size_t bytes, size_t offset = 0, cudaMemcpyKind = cudaMemcpyHostToDevice) {
  __builtin_memcpy(reinterpret_cast<char*>(&symbol) + offset, from, bytes);
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMemcpyFromSymbol(void* to, T& symbol, size_t bytes, size_t offset = 0, cudaMemcpyKind = cudaMemcpyDeviceToHost) {
  __builtin_memcpy(to, reinterpret_cast<const char*>(&symbol) + offset, bytes);
  return cudaSuccess;
}
