// Hopper's asynchronous warpgroup MMA ("Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions").
// The result is computed when the instruction is issued, because everything that could change its operands afterwards
// is an error: the accumulators hold POISON until wgmma.wait_group, registers of A are compared again at the wait, and
// shared memory remembers its asynchronous readers.
#pragma once
#include "warp.h"

namespace ptx {

// A matrix in shared memory ("Matrix Descriptor Format"; tcgen05 has the same fields, "Shared memory descriptor").
struct Descriptor {
  uint32_t start, leading, stride, swizzle;

  explicit Descriptor(uint64_t d)
      : start((d & 0x3FFF) << 4), leading((d >> 16 & 0x3FFF) << 4), stride((d >> 32 & 0x3FFF) << 4), swizzle(d >> 62) {
    if (d >> 49 & 7) emu::die("matrix descriptor: base offset not modelled");
    if (d >> 52 & 0x3FF) emu::die("matrix descriptor: reserved bits or 32-byte swizzle atoms not modelled");
  }
  // Bytes of a row of the swizzle pattern.
  uint32_t row_bytes() const { return swizzle == 1 ? 128 : swizzle == 2 ? 64 : swizzle == 3 ? 32 : 16; }
  // Byte address of element (mn, k); mn_major if mn is contiguous.
  template <class E>
  uint32_t at(int mn, int k, bool mn_major) const {
    uint32_t row = row_bytes(), per = row / E::BYTES, k_bytes = k * E::BYTES, a;
    if (mn_major && swizzle) a = start + mn / per * leading + k / 8 * stride + k % 8 * row + mn % per * E::BYTES;
    else if (mn_major) a = start + mn / per * stride + k / 8 * leading + k % 8 * row + mn % per * E::BYTES;
    else if (swizzle) a = start + mn / 8 * stride + mn % 8 * row + k_bytes;
    else a = start + mn / 8 * stride + k_bytes / 16 * leading + mn % 8 * 16 + k_bytes % 16;
    return swizzle ? a ^ (a >> 7 & (row / 16 - 1)) << 4 : a;
  }
};
template <class E>
double async_element(const Descriptor& d, int mn, int k, bool mn_major, int agent, uint32_t time) {
  uint32_t a = d.at<E>(mn, k, mn_major);
  async_read(a, E::BYTES, agent, time);
  return E::get(emu::shared + a);
}

struct Flight {  // accumulators of all lanes
  std::vector<uint32_t*> registers;
  std::vector<uint32_t> values;
  uint32_t serial = 0;
};
struct Held {  // a register of A
  const uint32_t* reg;
  uint32_t value, serial;
};
struct WarpMma {
  uint32_t issued = 0, done = 0;
  bool fenced = false;
  std::vector<Flight> flights;
  std::vector<Held> held;
  std::deque<uint32_t> groups;
};
inline std::vector<WarpMma> warp_mma;

struct WgmmaShape {
  int N, K;
  bool f16_accumulators, transpose_a, transpose_b;
  int sign_a, sign_b;
  int accumulator_registers() const { return f16_accumulators ? N / 4 : N / 2; }
};
struct WgmmaArgs {  // of one lane
  uint32_t** d;
  WgmmaOperand a;
  uint64_t b;
  bool accumulate;
};

// The lanes run the same instructions, so lane 0 tells which registers they use.
inline bool in_flight(const Flight& f, const uint32_t* reg) { return std::count(f.registers.begin(), f.registers.end(), reg); }
inline Flight& take_accumulators(WarpMma& w, WgmmaArgs** lanes, int count) {
  for (Flight& f : w.flights) {
    uint32_t** first = lanes[0]->d;
    if (std::none_of(first, first + count, [&](uint32_t* r) { return in_flight(f, r); })) continue;
    bool same = f.registers.size() == 32u * count && std::equal(first, first + count, f.registers.begin());
    if (!same) emu::die("wgmma: accumulators overlap those of one in flight");
    for (uint32_t* r : f.registers)
      if (*r != POISON) emu::die("wgmma: accumulator written while in flight");
    return f;
  }
  Flight f;
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < count; i++) {
      uint32_t* r = lanes[l]->d[i];
      f.registers.push_back(r), f.values.push_back(*r);
      *r = POISON;
    }
  w.flights.push_back(std::move(f));
  return w.flights.back();
}
// A in registers: the fragments of m64k16 (16 bit) and m64k8 (tf32), rows of this warp only ("Register Fragments").
template <class E>
double register_element(WgmmaArgs** lanes, int row, int k) {
  constexpr int PER = 4 / E::BYTES, SPAN = 4 * PER;
  const uint32_t* r = lanes[row % 8 * 4 + k % SPAN / PER]->a.registers[row / 8 + 2 * (k / SPAN)];
  return E::get(reinterpret_cast<const char*>(r) + k % PER * E::BYTES);
}
inline void hold_registers(WarpMma& w, WgmmaArgs** lanes, uint32_t serial) {
  for (Flight& f : w.flights)
    if (in_flight(f, lanes[0]->a.registers[0])) emu::die("wgmma: A is an accumulator in flight");
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < 4; i++) w.held.push_back({lanes[l]->a.registers[i], *lanes[l]->a.registers[i], serial});
}
// Accumulator `row`, `col` of this warp's 16 rows: which word of which lane, and which half of it for f16.
inline void accumulate(uint32_t& word, bool f16, int half, bool add, double sum) {
  if (!f16) {
    word = U(float((add ? F(word) : 0.) + sum));
    return;
  }
  uint16_t r = to_f16((add ? from_f16(word >> (16 * half)) : 0.) + sum);
  word = half ? (word & 0xFFFF) | uint32_t(r) << 16 : (word & 0xFFFF0000) | r;
}
template <class E>
void wgmma_warp(WgmmaArgs** lanes, const WgmmaShape& s) {
  int warp = emu::cur->warp, agent = wgmma_agent(warp);
  WarpMma& w = warp_mma[warp];
  WgmmaArgs& mine = *lanes[0];
  if (!w.fenced) emu::die("wgmma without wgmma.fence since the last wait");
  uint32_t serial = ++w.issued;
  for (int l = 1; l < 32; l++) {
    bool same = lanes[l]->b == mine.b && lanes[l]->accumulate == mine.accumulate && (mine.a.registers || lanes[l]->a.descriptor == mine.a.descriptor);
    if (!same) emu::die("wgmma: operands differ between lanes");
  }
  std::vector<double> A(16 * s.K), B(s.N * s.K);
  Descriptor db(mine.b);
  for (int n = 0; n < s.N; n++)
    for (int k = 0; k < s.K; k++) B[n * s.K + k] = s.sign_b * async_element<E>(db, n, k, s.transpose_b, agent, serial);
  Descriptor da(mine.a.registers ? mine.b : mine.a.descriptor);
  for (int r = 0; r < 16; r++)
    for (int k = 0; k < s.K; k++)
      A[r * s.K + k] = s.sign_a * (mine.a.registers ? register_element<E>(lanes, r, k)
                                                    : async_element<E>(da, warp % 4 * 16 + r, k, s.transpose_a, agent, serial));
  if (mine.a.registers) hold_registers(w, lanes, serial);
  int count = s.accumulator_registers();
  Flight& f = take_accumulators(w, lanes, count);
  f.serial = serial;
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < s.N / 2; i++) {  // element i of a lane: row l/4 + 8*(i/2%2), column i/4*8 + l%4*2 + i%2
      int row = l / 4 + 8 * (i / 2 % 2), col = i / 4 * 8 + l % 4 * 2 + i % 2;
      double sum = 0;
      for (int k = 0; k < s.K; k++) sum += A[row * s.K + k] * B[col * s.K + k];
      accumulate(f.values[l * count + (s.f16_accumulators ? i / 2 : i)], s.f16_accumulators, i % 2, mine.accumulate, sum);
    }
}
template <class E>
void wgmma(int N, int K, bool f16_accumulators, uint32_t** d, WgmmaOperand a, uint64_t b, bool accumulate, int sign_a, int sign_b,
           bool transpose_a, bool transpose_b) {
  if (thread_count % 128) emu::die("wgmma needs whole warpgroups");
  WgmmaArgs args{d, a, b, accumulate}, *mine = &args, *lanes[32];
  Values o = emu::collect(ALL, mine);
  for (int l = 0; l < 32; l++) lanes[l] = emu::lane_value<WgmmaArgs*>(o, ALL, l);
  if (emu::cur->lane == 0) wgmma_warp<E>(lanes, {N, K, f16_accumulators, transpose_a, transpose_b, sign_a, sign_b});
  emu::collect(ALL, 0);
}
template void wgmma<F16>(int, int, bool, uint32_t**, WgmmaOperand, uint64_t, bool, int, int, bool, bool);
template void wgmma<BF16>(int, int, bool, uint32_t**, WgmmaOperand, uint64_t, bool, int, int, bool, bool);
template void wgmma<TF32>(int, int, bool, uint32_t**, WgmmaOperand, uint64_t, bool, int, int, bool, bool);

// Runs `fn` once for the warp, between two meetings of its lanes.
template <class Fn>
void once_per_warp(Fn fn) {
  emu::collect(ALL, 0);
  if (emu::cur->lane == 0) fn();
  emu::collect(ALL, 0);
}
inline WarpMma& my_warp_mma() { return warp_mma[emu::cur->warp]; }
void wgmma_fence() {
  once_per_warp([] { my_warp_mma().fenced = true; });
}
void wgmma_commit() {
  once_per_warp([] { my_warp_mma().groups.push_back(my_warp_mma().issued); });
}
inline void wgmma_finish(WarpMma& w) {
  for (Held& h : w.held)
    if (h.serial <= w.done && *h.reg != h.value) emu::die("wgmma: register of A changed before the wait");
  std::erase_if(w.held, [&](auto& h) { return h.serial <= w.done; });
  for (Flight& f : w.flights) {
    if (f.serial > w.done) continue;
    for (size_t i = 0; i < f.registers.size(); i++) {
      if (*f.registers[i] != POISON) emu::die("wgmma: accumulator written before the wait");
      *f.registers[i] = f.values[i];
    }
  }
  std::erase_if(w.flights, [&](auto& f) { return f.serial <= w.done; });
}
void wgmma_wait(uint64_t keep) {
  once_per_warp([=] {
    WarpMma& w = my_warp_mma();
    for (; w.groups.size() > keep; w.groups.pop_front()) w.done = w.groups.front(), w.fenced = false;
    wgmma_finish(w);
  });
  learn(wgmma_agent(emu::cur->warp), my_warp_mma().done);
}
inline void wgmma_block_start() { warp_mma.assign(emu::collectives.size(), {}); }
inline void wgmma_thread_exit() {
  if (!my_warp_mma().flights.empty()) emu::die("thread exits with wgmma in flight");
}

}  // namespace ptx
