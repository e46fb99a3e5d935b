// Atomic functions. Like all atomics of CUDA that are not of cuda::atomic, they order no other access.
#pragma once
#include "runtime.h"

namespace emu {

template <size_t BYTES>
using Bits = std::conditional_t<BYTES == 2, uint16_t, std::conditional_t<BYTES == 4, uint32_t, uint64_t>>;

// Replaces *p by f(*p) and returns the old value.
template <class T, class F>
T atomic_update(T* p, F f) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);
  using B = Bits<sizeof(T)>;
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) die("misaligned address of an atomic function");
  B* bits = reinterpret_cast<B*>(p);
  B before = __atomic_load_n(bits, __ATOMIC_RELAXED), after;
  T old;
  do {
    __builtin_memcpy(&old, &before, sizeof old);
    const T changed = f(old);
    __builtin_memcpy(&after, &changed, sizeof after);
  } while (!__atomic_compare_exchange_n(bits, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

template <class T>
bool same_bits(const T& a, const T& b) {
  return !__builtin_memcmp(&a, &b, sizeof a);
}

// The second operand of an integer operation wraps around as the hardware does.
template <class T>
T wrapping_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
  else return a + b;
}

}  // namespace emu

#define EMU_ATOMIC(name, expression)                                                 \
  template <class T>                                                                 \
  T name(T* p, std::type_identity_t<T> v, EMU_HERE) {                                \
    return emu::atomic_update(p, [&](T old) { return static_cast<T>(expression); }); \
  }
#define EMU_ATOMIC_SCOPES(name, expression) \
  EMU_ATOMIC(name, expression) EMU_ATOMIC(name##_block, expression) EMU_ATOMIC(name##_system, expression)

EMU_ATOMIC_SCOPES(atomicAdd, emu::wrapping_add<T>(old, v))
EMU_ATOMIC_SCOPES(atomicSub, emu::wrapping_add<T>(old, static_cast<T>(0u - static_cast<std::make_unsigned_t<T>>(v))))
EMU_ATOMIC_SCOPES(atomicMin, v < old ? v : old)
EMU_ATOMIC_SCOPES(atomicMax, old < v ? v : old)
EMU_ATOMIC_SCOPES(atomicAnd, old & v)
EMU_ATOMIC_SCOPES(atomicOr, old | v)
EMU_ATOMIC_SCOPES(atomicXor, old ^ v)
EMU_ATOMIC_SCOPES(atomicInc, old >= v ? 0 : old + 1)
EMU_ATOMIC_SCOPES(atomicDec, old == 0 || old > v ? v : old - 1)

template <class T>
T atomicExch(T* p, std::type_identity_t<T> v, EMU_HERE) {
  const T old = emu::atomic_update(p, [&](T) { return v; });
  emu::polled(p, !emu::same_bits(old, v));
  return old;
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> desired, EMU_HERE) {
  const T old = emu::atomic_update(p, [&](T now) { return emu::same_bits(now, expected) ? desired : now; });
  emu::polled(p, emu::same_bits(old, expected));
  return old;
}
