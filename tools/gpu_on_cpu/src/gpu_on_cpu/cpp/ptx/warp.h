// Warp-level instructions: shuffles, votes, ldmatrix, stmatrix, mma.sync.
#pragma once
#include "async_copy.h"

namespace ptx {

using Values = const unsigned char (*)[64];

void exchange(uint32_t mask, uint64_t v, uint64_t* all) {
  Values o = emu::collect(mask, v);
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) all[i] = emu::lane_value<uint64_t>(o, mask, i);
}

// shfl.sync: the value, and whether the source lane was in range ("shfl.sync")
uint32_t shuffle(Shuffle mode, uint32_t v, uint32_t b, uint32_t c, uint32_t mask, bool& valid) {
  Values o = emu::collect(mask, v);
  int lane = emu::cur->lane, segment = c >> 8 & 31, clamp = c & 31;
  b &= 31;
  int low = lane & segment, high = low | (clamp & ~segment & 31), source = 0;
  switch (mode) {
    case Shuffle::UP: source = lane - static_cast<int>(b), valid = source >= high; break;
    case Shuffle::DOWN: source = lane + b, valid = source <= high; break;
    case Shuffle::BFLY: source = lane ^ static_cast<int>(b), valid = source <= high; break;
    case Shuffle::IDX: source = low | (b & ~segment & 31), valid = source <= high; break;
  }
  return emu::lane_value<uint32_t>(o, mask, valid ? source : lane);
}
uint32_t ballot(bool p, uint32_t mask) {
  Values o = emu::collect(mask, p);
  uint32_t r = 0;
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) r |= uint32_t(emu::lane_value<bool>(o, mask, i)) << i;
  return r;
}
uint32_t match_any(uint64_t v, uint32_t mask) {
  uint64_t all[32];
  exchange(mask, v, all);
  uint32_t r = 0;
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) r |= uint32_t(all[i] == v) << i;
  return r;
}
// elect.sync: some lane, the same one for the same mask; which one depends on the seed
uint32_t elect_leader(uint32_t mask) {
  emu::collect(mask, 0);
  int lane = emu::seed * 11 % 32;
  while (!(mask >> lane & 1)) lane = (lane + 1) % 32;
  return lane;
}

// ---- 8x8 matrices of b16 ("Warp-level matrix load instruction: ldmatrix", "... store instruction: stmatrix"):
// lane l holds elements 2*(l%4) and +1 of row l/4; lane 8*i+r brings the address of row r of matrix i.
inline Values exchange_rows(int count, uint64_t a) {
  if (emu::cur->lane < count * 8) check_shared(a, 16, 16);
  return emu::collect(ALL, static_cast<uint32_t>(a));
}
inline uint32_t matrix_element(Values rows, int matrix, int element, bool trans) {
  int lane = emu::cur->lane, x = lane / 4, y = lane % 4 * 2 + element;
  return emu::lane_value<uint32_t>(rows, ALL, matrix * 8 + (trans ? y : x)) + (trans ? x : y) * 2;
}
void ldmatrix(int count, bool trans, uint64_t a, uint32_t* r) {
  Values rows = exchange_rows(count, a);
  for (int i = 0; i < count; i++) {
    uint16_t v[2];
    for (int j = 0; j < 2; j++) memcpy(&v[j], shared_read(matrix_element(rows, i, j, trans), 2), 2);
    r[i] = v[0] | uint32_t(v[1]) << 16;
  }
}
void stmatrix(int count, bool trans, uint64_t a, const uint32_t* r) {
  Values rows = exchange_rows(count, a);
  for (int i = 0; i < count; i++)
    for (int j = 0; j < 2; j++) {
      uint16_t v = r[i] >> (16 * j);
      shared_write(matrix_element(rows, i, j, trans), &v, 2);
    }
}

// ---- operand formats of the tensor core
template <int SIZE, class Bits, auto GET>
struct Format {
  static constexpr int BYTES = SIZE;
  static double get(const void* p) {
    Bits u;
    memcpy(&u, p, sizeof u);
    return GET(u);
  }
};
struct F16 : Format<2, uint16_t, from_f16> {};
struct BF16 : Format<2, uint16_t, from_bf16> {};
struct TF32 : Format<4, uint32_t, cut_tf32> {};
inline double from_s8(int8_t x) { return x; }
inline double from_u8(uint8_t x) { return x; }
struct S8 : Format<1, int8_t, from_s8> {};
struct U8 : Format<1, uint8_t, from_u8> {};

// ---- mma.sync.m16n8kK.row.col ("Matrix Fragments for mma.m16n8k16 ..."). Element k of row r of A is with lane
// (r%8)*4 + k%SPAN/PER in register r/8 + 2*(k/SPAN), PER elements to a register, SPAN to the four lanes of a row; B is
// the same with columns for rows. Sums are made in fp64 (integers fit too) and rounded once.
struct Fragment {
  uint32_t a[4], b[2];
};
constexpr int MMA_M = 16, MMA_N = 8;
// The product of a warp's fragments, made by the first lane that leaves the exchange for all of them. It stays until
// all lanes have come to the next exchange, so nobody finds another one.
struct WarpProduct {
  uint32_t generation = 0;
  double sum[MMA_M][MMA_N];
};
inline std::vector<WarpProduct> warp_products;

template <class A, class B, int K>
void multiply(Values all, WarpProduct& p) {
  constexpr int PER = 4 / A::BYTES, SPAN = 4 * PER;
  double a[MMA_M][K], b[K][MMA_N];
  for (int k = 0; k < K; k++) {
    int lane = k % SPAN / PER, byte = k % PER * A::BYTES;
    for (int row = 0; row < MMA_M; row++) {
      const Fragment& f = *reinterpret_cast<const Fragment*>(all[row % 8 * 4 + lane]);
      a[row][k] = A::get(reinterpret_cast<const char*>(&f.a[row / 8 + 2 * (k / SPAN)]) + byte);
    }
    for (int col = 0; col < MMA_N; col++) {
      const Fragment& f = *reinterpret_cast<const Fragment*>(all[col * 4 + lane]);
      b[k][col] = B::get(reinterpret_cast<const char*>(&f.b[k / SPAN]) + byte);
    }
  }
  for (int row = 0; row < MMA_M; row++) {
    for (double& s : p.sum[row]) s = 0;
    for (int k = 0; k < K; k++)
      for (int col = 0; col < MMA_N; col++) p.sum[row][col] += a[row][k] * b[k][col];
  }
}
template <class A, class B, int K>
const WarpProduct& product(const uint32_t* a, const uint32_t* b) {
  constexpr int SPAN = 16 / A::BYTES;
  Fragment f{};
  memcpy(f.a, a, K / SPAN * 8);
  memcpy(f.b, b, K / SPAN * 4);
  Values all = emu::collect(ALL, f);
  WarpProduct& p = warp_products[emu::cur->warp];
  uint32_t generation = emu::collectives[emu::cur->warp][ALL].generation;
  if (p.generation != generation) multiply<A, B, K>(all, p), p.generation = generation;
  return p;
}
inline void warp_block_start() { warp_products.assign(emu::collectives.size(), {}); }
// Accumulator i of a lane is row lane/4 + 8*(i/2), column lane%4*2 + i%2.
inline int accumulator_row(int i) { return emu::cur->lane / 4 + 8 * (i / 2); }
inline int accumulator_column(int i) { return emu::cur->lane % 4 * 2 + i % 2; }

template <class E, int K>
void mma(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  const WarpProduct& p = product<E, E, K>(a, b);
  for (int i = 0; i < 4; i++) d[i] = float(c[i] + p.sum[accumulator_row(i)][accumulator_column(i)]);
}
template <int K>
void mma_f16(uint32_t* d, const uint32_t* a, const uint32_t* b, const uint32_t* c) {
  const WarpProduct& p = product<F16, F16, K>(a, b);
  uint16_t r[4];
  for (int i = 0; i < 4; i++) r[i] = to_f16(from_f16(c[i / 2] >> (i % 2 * 16)) + p.sum[accumulator_row(i)][accumulator_column(i)]);
  memcpy(d, r, sizeof r);
}
template <class A, class B, int K>
void mma_int(int32_t* d, const uint32_t* a, const uint32_t* b, const int32_t* c) {
  const WarpProduct& p = product<A, B, K>(a, b);
  for (int i = 0; i < 4; i++)
    d[i] = static_cast<int32_t>(c[i] + static_cast<int64_t>(p.sum[accumulator_row(i)][accumulator_column(i)]));
}
template void mma<F16, 8>(float*, const uint32_t*, const uint32_t*, const float*);
template void mma<F16, 16>(float*, const uint32_t*, const uint32_t*, const float*);
template void mma<BF16, 8>(float*, const uint32_t*, const uint32_t*, const float*);
template void mma<BF16, 16>(float*, const uint32_t*, const uint32_t*, const float*);
template void mma<TF32, 4>(float*, const uint32_t*, const uint32_t*, const float*);
template void mma<TF32, 8>(float*, const uint32_t*, const uint32_t*, const float*);
template void mma_f16<8>(uint32_t*, const uint32_t*, const uint32_t*, const uint32_t*);
template void mma_f16<16>(uint32_t*, const uint32_t*, const uint32_t*, const uint32_t*);
#define INT8_MMA(A, B)                                                                         \
  template void mma_int<A, B, 16>(int32_t*, const uint32_t*, const uint32_t*, const int32_t*); \
  template void mma_int<A, B, 32>(int32_t*, const uint32_t*, const uint32_t*, const int32_t*);
INT8_MMA(S8, S8)
INT8_MMA(S8, U8)
INT8_MMA(U8, S8)
INT8_MMA(U8, U8)
#undef INT8_MMA

}  // namespace ptx
