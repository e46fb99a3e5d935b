// Blackwell's tensor memory and MMA ("TensorCore 5th Generation Family Instructions").
// An MMA is computed when issued; whoever touches its tensor memory or its operands must first know of its completion
// (mbarrier wait, or a barrier after somebody's wait).
#pragma once
#include "tma.h"

namespace ptx {

inline uint32_t mma_issued;  // serial of the newest MMA

// ---- tensor memory: 128 lanes x 512 columns of 32 bits, with the history of every cell
constexpr uint32_t TMEM_LANES = 128, TMEM_COLUMNS = 512;
struct TmemCell {
  uint32_t value = ~0u;
  Use writer, reader;                    // the last tcgen05.st and tcgen05.ld
  uint32_t mma_write = 0, mma_read = 0;  // serials of MMAs after that tcgen05.st
  bool in_flight = false;                // a tcgen05.st to it has not been waited for
  bool loading = false;                  // a tcgen05.ld of it has not
};
inline std::vector<TmemCell> tmem;
inline uint32_t tmem_top;
inline bool tmem_relinquished;

inline TmemCell& tmem_cell(uint32_t lane, uint32_t column) {
  if (lane >= TMEM_LANES || column >= tmem_top) emu::die("tensor memory outside the allocation");
  return tmem[lane * TMEM_COLUMNS + column];
}
inline bool mma_known(uint32_t serial) { return my_clock().seen[tcgen05_agent()] >= serial; }

void tmem_alloc(uint64_t a, uint32_t columns) {
  if (columns < 32 || columns > TMEM_COLUMNS || (columns & (columns - 1))) emu::die("tcgen05.alloc: columns must be a power of two, 32 to 512");
  once_per_warp([=] {
    if (tmem_relinquished) emu::die("tcgen05.alloc after relinquish_alloc_permit");
    if (tmem_top + columns > TMEM_COLUMNS) emu::die("tensor memory exhausted");
    store_shared(a, &tmem_top, 4);
    tmem_top += columns;
  });
}
struct TmemMove {
  uint32_t* reg;
  uint32_t cell, value;
};
struct TmemQueue {
  std::vector<TmemMove> loads, stores;  // not waited for
};
inline std::vector<TmemQueue> tmem_queues;  // [thread]

void tmem_dealloc(uint32_t base, uint32_t columns) {
  once_per_warp([=] {
    if ((base & 0xFFFF) + columns != tmem_top) emu::die("tcgen05.dealloc: not the last allocation");
    if (!mma_known(mma_issued)) emu::die("tensor memory freed while an MMA may still use it");
    for (TmemQueue& q : tmem_queues)
      if (!q.loads.empty() || !q.stores.empty()) emu::die("tensor memory freed with tcgen05.ld/st in flight");
    tmem_top -= columns;
  });
}
void tmem_relinquish() {
  once_per_warp([] { tmem_relinquished = true; });
}

// The cell that register i of this lane stands for ("Data Movement Shape", figures of the shapes).
inline uint32_t tmem_index(TmemShape shape, uint32_t base, int i, int split) {
  uint32_t row = base >> 16, column = base & 0xFFFF, l = emu::cur->lane;
  switch (shape) {
    case TmemShape::L32x32b: row += l, column += i; break;
    case TmemShape::L16x32bx2: row += l % 16, column += i + l / 16 * split; break;  // upper lanes: `split` columns on
    case TmemShape::L16x64b: row += l / 4 + 8 * (l % 2), column += i * 2 + l % 4 / 2; break;
    case TmemShape::L16x128b: row += l / 4 + 8 * (i % 2), column += i / 2 * 4 + l % 4; break;
    case TmemShape::L16x256b: row += l / 4 + 8 * (i / 2 % 2), column += i / 4 * 8 + l % 4 * 2 + i % 2; break;
  }
  if (row / 32 != static_cast<uint32_t>(emu::cur->warp % 4)) emu::die("tcgen05.ld/st outside the warp's quarter of tensor memory");
  tmem_cell(row, column);
  return row * TMEM_COLUMNS + column;
}
inline void check_tmem_order(const TmemCell& c) {
  if (c.in_flight) emu::die("tensor memory used before tcgen05.wait::st");
  uint32_t mma = std::max(c.mma_write, c.mma_read);  // was ordered after the writer
  if (c.writer.agent >= 0 && !ordered(c.writer.agent, c.writer.time) && !(mma && mma_known(mma)))
    emu::die("tensor memory of another thread's tcgen05.st used, no barrier between");
}
inline void check_tmem_overwrite(const TmemCell& c) {
  if (c.loading) emu::die("tensor memory overwritten before tcgen05.wait::ld");
  if (c.reader.agent >= 0 && !ordered(c.reader.agent, c.reader.time)) emu::die("tensor memory overwritten while another thread's tcgen05.ld may still read it, no barrier between");
}
void tmem_load(TmemShape shape, uint32_t base, int split, uint32_t** regs, int n) {
  emu::collect(ALL, base);
  for (int i = 0; i < n; i++) {
    uint32_t k = tmem_index(shape, base, i, split);
    TmemCell& c = tmem[k];
    check_tmem_order(c);
    if (!mma_known(c.mma_write)) emu::die("tcgen05.ld of an MMA's result that was not waited for");
    c.loading = true, c.reader = {static_cast<int16_t>(emu::cur->id), now()};
    tmem_queues[emu::cur->id].loads.push_back({regs[i], k, c.value});
    *regs[i] = POISON;
  }
}
void tmem_store(TmemShape shape, uint32_t base, int split, const uint32_t* values, int n) {
  emu::collect(ALL, base);
  for (int i = 0; i < n; i++) {
    uint32_t k = tmem_index(shape, base, i, split);
    TmemCell& c = tmem[k];
    check_tmem_order(c);
    if (!mma_known(std::max(c.mma_write, c.mma_read))) emu::die("tcgen05.st over tensor memory that an MMA may still use");
    check_tmem_overwrite(c);
    c = {POISON, {static_cast<int16_t>(emu::cur->id), now()}, {}, 0, 0, true, false};
    tmem_queues[emu::cur->id].stores.push_back({nullptr, k, values[i]});
  }
}
void tmem_wait_ld() {
  auto& loads = tmem_queues[emu::cur->id].loads;
  for (TmemMove& l : loads) {
    if (*l.reg != POISON) emu::die("register of tcgen05.ld written before wait::ld");
    *l.reg = l.value;
    tmem[l.cell].loading = false, tmem[l.cell].reader.time = now();
  }
  loads.clear();
}
void tmem_wait_st() {
  auto& stores = tmem_queues[emu::cur->id].stores;
  for (TmemMove& s : stores) {
    TmemCell& c = tmem[s.cell];
    c.in_flight = false, c.value = s.value, c.writer.time = now();
  }
  stores.clear();
}

// ---- tcgen05.mma, cta_group::1, dense, f32 accumulators ("Instruction descriptor", "Data Path Layout Organization")
struct MmaShape {
  int M, N, K;
  bool transpose_a, transpose_b;
  float sign_a, sign_b;
  int format_a, format_b;  // 0 f16, 1 bf16, 2 tf32
};
inline MmaShape decode_shape(uint32_t id, bool tf32) {
  MmaShape s{int(id >> 24 & 31) * 16, int(id >> 17 & 63) * 8, tf32 ? 8 : 16, bool(id >> 15 & 1), bool(id >> 16 & 1),
             id >> 13 & 1 ? -1.f : 1.f, id >> 14 & 1 ? -1.f : 1.f, int(id >> 7 & 7), int(id >> 10 & 7)};
  bool formats = tf32 ? s.format_a == 2 && s.format_b == 2 : s.format_a < 2 && s.format_b < 2;
  bool f32_accumulators = (id >> 4 & 3) == 1, reserved = id & 15 || id >> 29 || (id >> 6 & 1) || (id >> 23 & 1);
  if (!f32_accumulators || !formats || (s.M != 64 && s.M != 128) || reserved) emu::die("tcgen05.mma: instruction descriptor not modelled");
  if (s.N % (s.M == 64 ? 8 : 16) || s.N < 8 || s.N > 256) emu::die("tcgen05.mma: N not allowed");
  return s;
}
// Rows of a matrix in tensor memory ("Data Path Layout Organization", layouts D and F): with M = 64, 16 in each quarter.
inline int tmem_lane(int row, int M) { return M == 128 ? row : row / 16 * 32 + row % 16; }
// A in tensor memory.
inline double tmem_operand(uint32_t base, int m, int k, const MmaShape& s, bool tf32, uint32_t serial) {
  int per = tf32 ? 1 : 2;
  TmemCell& c = tmem_cell((base >> 16) + tmem_lane(m, s.M), (base & 0xFFFF) + k / per);
  check_tmem_order(c);
  c.mma_read = serial;
  uint32_t v = c.value >> (k % per * 16);
  return tf32 ? cut_tf32(v) : s.format_a ? from_bf16(v) : from_f16(v);
}
inline double smem_operand(const Descriptor& d, int mn, int k, bool mn_major, int format, uint32_t serial) {
  switch (format) {
    case 0: return async_element<F16>(d, mn, k, mn_major, tcgen05_agent(), serial);
    case 1: return async_element<BF16>(d, mn, k, mn_major, tcgen05_agent(), serial);
    default: return async_element<TF32>(d, mn, k, mn_major, tcgen05_agent(), serial);
  }
}
inline Descriptor sm100_descriptor(uint64_t d) {
  if ((d >> 46 & 7) != 1) emu::die("tcgen05.mma: descriptor version");
  return Descriptor(d & ~(1ull << 46));
}
void tcgen05_mma(uint32_t d, bool a_in_tmem, uint64_t a, uint64_t b, uint32_t id, bool accumulate, bool tf32) {
  MmaShape s = decode_shape(id, tf32);
  if (tf32 && (s.transpose_a || s.transpose_b)) emu::die("tcgen05.mma: MN-major tf32 is not modelled");
  if (a_in_tmem && s.transpose_a) emu::die("tcgen05.mma: A in tensor memory is K-major");
  uint32_t serial = ++mma_issued;
  std::vector<double> A(s.M * s.K), B(s.N * s.K);
  Descriptor db = sm100_descriptor(b);
  for (int n = 0; n < s.N; n++)
    for (int k = 0; k < s.K; k++) B[n * s.K + k] = s.sign_b * smem_operand(db, n, k, s.transpose_b, s.format_b, serial);
  Descriptor da = a_in_tmem ? db : sm100_descriptor(a);
  for (int m = 0; m < s.M; m++)
    for (int k = 0; k < s.K; k++)
      A[m * s.K + k] = s.sign_a * (a_in_tmem ? tmem_operand(static_cast<uint32_t>(a), m, k, s, tf32, serial)
                                             : smem_operand(da, m, k, s.transpose_a, s.format_a, serial));
  for (int m = 0; m < s.M; m++)
    for (int n = 0; n < s.N; n++) {
      TmemCell& c = tmem_cell((d >> 16) + tmem_lane(m, s.M), (d & 0xFFFF) + n);
      check_tmem_order(c), check_tmem_overwrite(c);
      double sum = accumulate ? F(c.value) : 0.;
      for (int k = 0; k < s.K; k++) sum += A[m * s.K + k] * B[n * s.K + k];
      c.value = U(static_cast<float>(sum)), c.mma_write = serial;
    }
}
// Arrives at the mbarrier when all MMAs so far have completed. An MMA's completion is known by its serial, so commits
// to different barriers may arrive in any order; those to one barrier are interchangeable.
void tcgen05_commit(uint64_t mbar) {
  use_mbarrier(mbar);
  uint32_t a = static_cast<uint32_t>(mbar), serial = mma_issued;
  complete_later([=] {
    Mbarrier& b = mbarrier_at(a);
    uint32_t& known = b.arriving.seen[tcgen05_agent()];
    known = std::max(known, serial);
    count_arrivals(b, 1);
  });
  emu::progress++;
}

inline void tcgen05_block_start() {
  mma_issued = tmem_top = 0, tmem_relinquished = false;
  tmem.assign(TMEM_LANES * TMEM_COLUMNS, TmemCell{});
  tmem_queues.assign(thread_count, {});
}
inline void tcgen05_thread_exit() {
  TmemQueue& q = tmem_queues[emu::cur->id];
  if (!q.loads.empty() || !q.stores.empty()) emu::die("thread exits with tcgen05.ld/st in flight");
  if (emu::alive == 1 && tmem_top) emu::die("block ends with tensor memory allocated");
}

}  // namespace ptx
