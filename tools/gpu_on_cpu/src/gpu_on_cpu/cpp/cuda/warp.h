// Shuffles, votes, matches and reductions of a warp. They order no memory accesses: only __syncwarp does.
#pragma once
#include "runtime.h"

namespace emu {

// What the lanes of a mask brought to one instruction.
template <class T>
struct Lanes {
  T value[32];
  uint32_t present;

  Lanes(const char* what, uint32_t mask, const T& mine) { present = exchange(what, mask, &mine, sizeof(T), value); }
  const T& of(int lane) const {
    if (!(present >> lane & 1)) die("warp collective: value of a lane outside the mask, or of one that has ended");
    return value[lane];
  }
  template <class F>
  T reduce(F f) const {
    T result{};
    bool first = true;
    for (int i = 0; i < 32; i++)
      if (present >> i & 1) result = first ? value[i] : f(result, value[i]), first = false;
    return result;
  }
};

// The first lane of this lane's group of `width` lanes.
inline int segment(int lane, int width) {
  if (width < 1 || width > 32 || (width & (width - 1))) die("shuffle: the width is not a power of two up to 32");
  return lane & ~(width - 1);
}

template <class T>
constexpr void check_shuffled() {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
}

}  // namespace emu

inline void __syncwarp(unsigned mask = ~0u, EMU_HERE) { emu::sync_warp(mask); }

template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, EMU_HERE) {
  emu::check_shuffled<T>();
  const int first = emu::segment(emu::self().lane, width);
  return emu::Lanes<T>("__shfl_sync", mask, v).of(first + (source & (width - 1)));
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_HERE) {
  emu::check_shuffled<T>();
  const int lane = emu::self().lane, source = lane - static_cast<int>(delta & 31);
  const bool moves = source >= emu::segment(lane, width);
  const emu::Lanes<T> lanes("__shfl_up_sync", mask, v);
  return moves ? lanes.of(source) : v;
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_HERE) {
  emu::check_shuffled<T>();
  const int lane = emu::self().lane, source = lane + static_cast<int>(delta & 31);
  const bool moves = source < emu::segment(lane, width) + width;
  const emu::Lanes<T> lanes("__shfl_down_sync", mask, v);
  return moves ? lanes.of(source) : v;
}
// A lane of an earlier group can be read, one of a later group cannot.
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lane_mask, int width = 32, EMU_HERE) {
  emu::check_shuffled<T>();
  const int lane = emu::self().lane, source = lane ^ (lane_mask & 31);
  const bool moves = source < emu::segment(lane, width) + width;
  const emu::Lanes<T> lanes("__shfl_xor_sync", mask, v);
  return moves ? lanes.of(source) : v;
}

namespace emu {
inline unsigned ballot(const char* what, unsigned mask, int predicate) {
  const Lanes<int> lanes(what, mask, predicate != 0);
  unsigned result = 0;
  for (int i = 0; i < 32; i++)
    if (lanes.present >> i & 1) result |= static_cast<unsigned>(lanes.value[i]) << i;
  return result;
}
}  // namespace emu

inline unsigned __ballot_sync(unsigned mask, int p, EMU_HERE) { return emu::ballot("__ballot_sync", mask, p); }
inline int __any_sync(unsigned mask, int p, EMU_HERE) { return emu::ballot("__any_sync", mask, p) != 0; }
inline int __all_sync(unsigned mask, int p, EMU_HERE) { return emu::ballot("__all_sync", mask, !p) == 0; }

template <class T>
unsigned __match_any_sync(unsigned mask, T v, EMU_HERE) {
  const emu::Lanes<T> lanes("__match_any_sync", mask, v);
  unsigned result = 0;
  for (int i = 0; i < 32; i++)
    if (lanes.present >> i & 1) result |= static_cast<unsigned>(!__builtin_memcmp(&lanes.value[i], &v, sizeof v)) << i;
  return result;
}
template <class T>
unsigned __match_all_sync(unsigned mask, T v, int* same, EMU_HERE) {
  const emu::Lanes<T> lanes("__match_all_sync", mask, v);
  *same = 1;
  for (int i = 0; i < 32; i++)
    if (lanes.present >> i & 1 && __builtin_memcmp(&lanes.value[i], &v, sizeof v)) *same = 0;
  return *same ? lanes.present : 0;
}

#define EMU_REDUCE(name, type, expression)                                                                \
  inline type name(unsigned mask, type v, EMU_HERE) {                                                     \
    return emu::Lanes<type>(#name, mask, v).reduce([](type a, type b) { return static_cast<type>(expression); }); \
  }
EMU_REDUCE(__reduce_add_sync, unsigned, a + b)
EMU_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
EMU_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
EMU_REDUCE(__reduce_and_sync, unsigned, a & b)
EMU_REDUCE(__reduce_or_sync, unsigned, a | b)
EMU_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
EMU_REDUCE(__reduce_add_sync, int, static_cast<unsigned>(a) + static_cast<unsigned>(b))  // wraps around
EMU_REDUCE(__reduce_min_sync, int, a < b ? a : b)
EMU_REDUCE(__reduce_max_sync, int, a > b ? a : b)
