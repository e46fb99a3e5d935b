// The emulated side of portable.h: warp-level matrix instructions and asynchronous copies. The layouts are those of
// the PTX ISA, "Matrix fragments for mma.m16n8k16" and following.
#pragma once
#include "warp.h"

namespace emu {

template <class T>
float unpack(uint32_t word, int high) {
  return static_cast<float>(__builtin_bit_cast(T, static_cast<uint16_t>(high ? word >> 16 : word)));
}

// d = a * b + c for a tile of 16 x 8: A and B are what the lanes hold in their registers, as floats. `a_at(row, k)` and
// `b_at(k, column)` find an element as {lane, register}. Sums are exact to fp64 and rounded once.
template <int K, class Fragment, class A, class B>
void multiply(float (&d)[4], const Lanes<Fragment>& lanes, const float (&c)[4], A a_at, B b_at) {
  const int lane = self().lane;
  float result[4];
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < K; k++) {
      const auto [a_lane, a_register] = a_at(row, k);
      const auto [b_lane, b_register] = b_at(k, column);
      sum += static_cast<double>(lanes.of(a_lane).a[a_register]) * lanes.of(b_lane).b[b_register];
    }
    result[i] = static_cast<float>(sum);
  }
  __builtin_memcpy(d, result, sizeof result);
}

struct Place {
  int lane, index;
};

}  // namespace emu

namespace portable {

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], EMU_HERE) {
  struct Fragment {
    float a[8], b[4];
  } mine;
  for (int i = 0; i < 8; i++) mine.a[i] = emu::unpack<T>(a[i / 2], i % 2);
  for (int i = 0; i < 4; i++) mine.b[i] = emu::unpack<T>(b[i / 2], i % 2);
  const emu::Lanes<Fragment> lanes("mma_m16n8k16", ~0u, mine);
  emu::multiply<16>(
      d, lanes, c,
      [](int row, int k) { return emu::Place{row % 8 * 4 + k % 8 / 2, k % 2 + row / 8 * 2 + k / 8 * 4}; },
      [](int k, int column) { return emu::Place{column * 4 + k % 8 / 2, k % 2 + k / 8 * 2}; });
}

// The hardware ignores the low 13 bits of what it multiplies.
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], EMU_HERE) {
  struct Fragment {
    float a[4], b[2];
  } mine;
  for (int i = 0; i < 4; i++) mine.a[i] = __builtin_bit_cast(float, a[i] & ~0x1fffu);
  for (int i = 0; i < 2; i++) mine.b[i] = __builtin_bit_cast(float, b[i] & ~0x1fffu);
  const emu::Lanes<Fragment> lanes("mma_m16n8k8_tf32", ~0u, mine);
  emu::multiply<8>(
      d, lanes, c, [](int row, int k) { return emu::Place{row % 8 * 4 + k % 4, row / 8 + k / 4 * 2}; },
      [](int k, int column) { return emu::Place{column * 4 + k % 4, k / 4}; });
}

// Rounds to the nearest tf32 number, ties away from zero.
inline uint32_t to_tf32(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  return (bits & 0x7f800000u) == 0x7f800000u ? (x != x ? 0x7fffffffu : bits) : (bits + 0x1000u) & ~0x1fffu;
}

template <bool TRANSPOSED = false, int N>
void ldmatrix(uint32_t (&r)[N], const void* row, EMU_HERE) {
  static_assert(N == 1 || N == 2 || N == 4);
  const int lane = emu::self().lane;
  const emu::Lanes<const void*> rows("ldmatrix", ~0u, row);
  if (lane < 8 * N) {  // the other lanes' addresses are not used
    if (reinterpret_cast<uintptr_t>(row) % 16) emu::die("ldmatrix: a row is not aligned to 16 bytes");
    if (!emu::is_shared(row, 16)) emu::die("ldmatrix: a row is not in shared memory");
  }
  for (int matrix = 0; matrix < N; matrix++) {
    uint32_t word = 0;
    for (int half = 0; half < 2; half++) {
      const int i = TRANSPOSED ? lane % 4 * 2 + half : lane / 4, j = TRANSPOSED ? lane / 4 : lane % 4 * 2 + half;
      word |= static_cast<uint32_t>(static_cast<const uint16_t*>(rows.of(matrix * 8 + i))[j]) << (16 * half);
    }
    r[matrix] = word;
  }
}

template <int BYTES>
void cp_async(void* to, const void* from, int valid = BYTES, EMU_HERE) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  emu::async_copy(to, from, BYTES, valid);
}
inline void cp_async_commit() { emu::async_commit(); }
template <int GROUPS>
void cp_async_wait() {
  static_assert(GROUPS >= 0);
  emu::async_wait(GROUPS);
}
inline void cp_async_wait_all() { emu::async_wait(-1); }

}  // namespace portable
