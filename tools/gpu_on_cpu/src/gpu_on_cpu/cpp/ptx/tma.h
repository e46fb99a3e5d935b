// The tensor memory accelerator ("Bulk copy", "Tensor copy", "tensormap.replace"). A tensor map is opaque in PTX; here
// it is the structure below, in the same 128 bytes.
#pragma once
#include "mbarrier.h"

namespace ptx {

struct TensorMap {
  uint64_t address;
  uint64_t strides[4];   // bytes, of dimensions 1 to 4
  uint32_t dims[5];      // elements, innermost first
  uint16_t box[5], element_strides[5];
  uint8_t rank, element_type, interleave, swizzle, fill;
  uint8_t unused[43];
};
static_assert(sizeof(TensorMap) == 128);
enum ElementType { TU8, TU16, TU32, TS32, TU64, TS64, TF16, TF32_, TF32FTZ, TF64, TBF16 };

inline int element_bytes(uint8_t type) {
  constexpr int BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 4, 8, 2, 4, 4};
  if (type >= std::size(BYTES)) emu::die("tensor map: element type not modelled");
  return BYTES[type];
}
inline TensorMap read_map(uint64_t address, int rank) {
  if (address % 64) emu::die("tensor map: misaligned");
  Range& r = find_range(address, sizeof(TensorMap));
  if (r.writable) check_owner(r, address, sizeof(TensorMap), LOAD, nullptr);
  TensorMap m;
  memcpy(&m, reinterpret_cast<const char*>(address), sizeof m);
  if (m.rank != rank) emu::die("tensor map: rank differs from the instruction's");
  if (m.interleave) emu::die("tensor map: interleaved layouts are not modelled");
  if (m.fill) emu::die("tensor map: NaN fill is not modelled");
  if (m.swizzle > 3) emu::die("tensor map: swizzle mode not modelled");
  int size = element_bytes(m.element_type);
  if (m.address % 16) emu::die("tensor map: global address is not a multiple of 16 bytes");
  if (m.box[0] * size % 16) emu::die("tensor map: inner box dimension is not a multiple of 16 bytes");
  if (m.swizzle && m.box[0] * size > 16 << m.swizzle) emu::die("tensor map: inner box dimension exceeds the swizzle span");
  if (m.swizzle && m.box[0] * size < 16 << m.swizzle) emu::die("tensor map: inner box dimension smaller than the swizzle span is not modelled");
  for (int i = 0; i < rank; i++) {
    if (m.box[i] < 1 || m.box[i] > 256) emu::die("tensor map: box dimension outside 1..256");
    if (m.element_strides[i] != 1) emu::die("tensor map: element strides are not modelled");
    if (i && m.strides[i - 1] % 16) emu::die("tensor map: stride is not a multiple of 16 bytes");
  }
  return m;
}
inline uint32_t swizzled(uint32_t a, uint8_t mode) { return mode ? a ^ (a >> 7 & ((1u << mode) - 1)) << 4 : a; }

// Calls fn(offset in the box, global address or 0 outside the tensor) for every inner row of 16-byte pieces.
template <class Fn>
void for_each_piece(const TensorMap& m, const int32_t* at, Fn fn) {
  int size = element_bytes(m.element_type), per = 16 / size;
  uint32_t rows = 1, pieces = m.box[0] / per;
  for (int i = 1; i < m.rank; i++) rows *= m.box[i];
  for (uint32_t row = 0; row < rows; row++) {
    uint64_t base = m.address;
    bool inside = true;
    for (int i = 1, rest = row; i < m.rank; i++) {
      int64_t c = int64_t(at[i]) + rest % m.box[i];
      rest /= m.box[i];
      inside &= c >= 0 && c < m.dims[i];
      base += c * m.strides[i - 1];
    }
    for (uint32_t p = 0; p < pieces; p++) {
      int64_t first = int64_t(at[0]) + p * per;
      int64_t begin = std::clamp<int64_t>(-first, 0, per), end = std::clamp<int64_t>(int64_t(m.dims[0]) - first, 0, per);
      fn((row * pieces + p) * 16, inside && end > begin ? base + (first + begin) * size : 0, (end - begin) * size, begin * size);
    }
  }
}
inline uint32_t box_bytes(const TensorMap& m) {
  uint32_t n = element_bytes(m.element_type);
  for (int i = 0; i < m.rank; i++) n *= m.box[i];
  return n;
}
inline void check_bulk(uint64_t shared_address, uint32_t bytes, int align) {
  if (bytes % 16) emu::die("bulk copy: size is not a multiple of 16 bytes");
  check_shared(shared_address, bytes, align);
}

// ---- global -> shared, reported to an mbarrier
struct Piece {
  uint32_t dst;
  uint64_t src;  // 0: zeros
  int bytes, skip;
};
inline void start_load(std::vector<Piece> pieces, uint32_t bytes, uint64_t mbar) {
  use_mbarrier(mbar);
  uint32_t a = static_cast<uint32_t>(mbar);
  for (const Piece& p : pieces) begin_flight(p.dst, 16);
  const emu::Location* at = emu::cur->at;
  complete_later([=] {
    const Mbarrier& b = mbarrier_at(a);
    for (const Piece& p : pieces) {
      memset(emu::shared + p.dst, 0, 16);
      if (p.src) memcpy(emu::shared + p.dst + p.skip, reinterpret_cast<const char*>(p.src), p.bytes);
      for (int i = 0; i < 16; i++) {
        Cell& c = cells[p.dst + i];
        c.in_flight = false, c.writer = {static_cast<int16_t>(b.agent), b.time()}, c.at = at;
      }
    }
    complete_bytes(a, bytes);
  });
}
void tensor_load(int rank, uint64_t dst, uint64_t map, const int32_t* coordinates, uint64_t mbar, int site) {
  TensorMap m = read_map(map, rank);
  uint32_t bytes = box_bytes(m), base = static_cast<uint32_t>(dst);
  check_bulk(dst, bytes, 128);
  std::vector<Piece> pieces;
  Pieces sites{site};
  for_each_piece(m, coordinates, [&](uint32_t offset, uint64_t src, int n, int skip) {
    if (src) global_at(src, n, 1, sites.next(), LOAD, nullptr);
    pieces.push_back({swizzled(base + offset, m.swizzle), src, n, skip});
  });
  start_load(std::move(pieces), bytes, mbar);
}
void bulk_load(uint64_t dst, uint64_t src, uint32_t bytes, uint64_t mbar, int site) {
  check_bulk(dst, bytes, 16);
  if (src % 16) emu::die("bulk copy: misaligned source");
  std::vector<Piece> pieces;
  Pieces sites{site};
  for (uint32_t i = 0; i < bytes; i += 16) {
    global_at(src + i, 16, 16, sites.next(), LOAD, nullptr);
    pieces.push_back({static_cast<uint32_t>(dst) + i, src + i, 16, 0});
  }
  start_load(std::move(pieces), bytes, mbar);
}

// ---- shared -> global, waited for in groups of the issuing thread. The source is read when the copy is issued (a
// change before wait_group.read is an error), the destination is written when its group is waited for.
struct StorePiece {
  uint64_t dst;
  std::array<char, 16> data;
  int bytes, type;  // type: of the elements, for a reduction
};
struct StoreGroup {
  std::vector<StorePiece> pieces;
  TensorStore op;
};
struct StoreQueue {
  int agent = -1;  // stands for this thread's copies as readers of shared memory
  uint32_t issued = 0;
  std::vector<StoreGroup> open;
  std::deque<std::pair<uint32_t, std::vector<StoreGroup>>> groups;  // with the serial of the newest copy
  size_t read_done = 0;                                             // groups at the front whose source was read
};
inline std::vector<StoreQueue> store_queues;  // [thread]
inline StoreQueue& my_stores() {
  StoreQueue& q = store_queues[emu::cur->id];
  if (q.agent < 0) q.agent = new_agent();
  return q;
}
template <class T>
void reduce_elements(char* dst, const char* src, int bytes, TensorStore op) {
  for (int i = 0; i < bytes; i += sizeof(T)) {
    T a, b;
    memcpy(&a, dst + i, sizeof a), memcpy(&b, src + i, sizeof b);
    a = op == TensorStore::ADD ? T(a + b) : op == TensorStore::MIN ? std::min(a, b) : std::max(a, b);
    memcpy(dst + i, &a, sizeof a);
  }
}
inline void write_piece(const StorePiece& p, TensorStore op) {
  char* dst = reinterpret_cast<char*>(p.dst);
  if (op == TensorStore::STORE) memcpy(dst, p.data.data(), p.bytes);
  else if (p.type == TF32_) reduce_elements<float>(dst, p.data.data(), p.bytes, op);
  else if (p.type == TS32) reduce_elements<int32_t>(dst, p.data.data(), p.bytes, op);
  else if (p.type == TU32) reduce_elements<uint32_t>(dst, p.data.data(), p.bytes, op);
  else emu::die("tensor reduction: element type not modelled");
}
void tensor_store(int rank, TensorStore op, uint64_t map, const int32_t* coordinates, uint64_t src, int site) {
  TensorMap m = read_map(map, rank);
  check_bulk(src, box_bytes(m), 128);
  StoreQueue& q = my_stores();
  uint32_t base = static_cast<uint32_t>(src), serial = ++q.issued;
  StoreGroup group{{}, op};
  Pieces sites{site};
  for_each_piece(m, coordinates, [&](uint32_t offset, uint64_t dst, int n, int skip) {
    uint32_t a = swizzled(base + offset, m.swizzle);
    async_read(a, 16, q.agent, serial);
    if (!dst) return;
    StorePiece p{dst, {}, n, m.element_type};
    memcpy(p.data.data(), emu::shared + a + skip, n);
    global_at(dst, n, 1, sites.next(), op == TensorStore::STORE ? STORE : ATOMIC, p.data.data());
    group.pieces.push_back(p);
  });
  q.open.push_back(std::move(group));
}
void bulk_store(uint64_t dst, uint64_t src, uint32_t bytes, int site) {
  check_bulk(src, bytes, 16);
  if (dst % 16) emu::die("bulk copy: misaligned destination");
  StoreQueue& q = my_stores();
  uint32_t serial = ++q.issued;
  StoreGroup group{{}, TensorStore::STORE};
  Pieces sites{site};
  for (uint32_t i = 0; i < bytes; i += 16) {
    uint32_t a = static_cast<uint32_t>(src) + i;
    async_read(a, 16, q.agent, serial);
    StorePiece p{dst + i, {}, 16, 0};
    memcpy(p.data.data(), emu::shared + a, 16);
    global_at(dst + i, 16, 16, sites.next(), STORE, p.data.data());
    group.pieces.push_back(p);
  }
  q.open.push_back(std::move(group));
}
void bulk_commit() {
  StoreQueue& q = store_queues[emu::cur->id];
  q.groups.emplace_back(q.issued, std::move(q.open));
  q.open.clear();
}
void bulk_wait(uint64_t keep, bool read_only) {
  StoreQueue& q = store_queues[emu::cur->id];
  size_t done = q.groups.size() > keep ? q.groups.size() - keep : 0;
  if (done && q.agent >= 0) learn(q.agent, q.groups[done - 1].first);
  q.read_done = std::max(q.read_done, done);
  if (read_only) return;
  for (; done; done--, q.read_done -= q.read_done != 0, q.groups.pop_front())
    for (StoreGroup& g : q.groups.front().second)
      for (StorePiece& p : g.pieces) write_piece(p, g.op);
}

// ---- tensor maps made by the kernel: built in shared memory, copied out, then fenced
void tensormap_replace(MapField field, uint64_t address, bool in_shared, int index, uint64_t value, int site) {
  if (in_shared) check_shared(address, sizeof(TensorMap), 64);
  else global_at(address, sizeof(TensorMap), 64, site, ATOMIC, nullptr);
  TensorMap m;
  memcpy(&m, in_shared ? shared_read(address, sizeof m) : reinterpret_cast<const char*>(address), sizeof m);
  switch (field) {
    case MapField::ADDRESS: m.address = value; break;
    case MapField::RANK: m.rank = value + 1; break;
    case MapField::BOX_DIM: m.box[index] = value; break;
    case MapField::GLOBAL_DIM: m.dims[index] = value; break;
    case MapField::GLOBAL_STRIDE: m.strides[index] = value; break;
    case MapField::ELEMENT_STRIDE: m.element_strides[index] = value; break;
    case MapField::ELEMTYPE: m.element_type = value; break;
    case MapField::INTERLEAVE: m.interleave = value; break;
    case MapField::SWIZZLE: m.swizzle = value; break;
    case MapField::FILL: m.fill = value; break;
  }
  if (in_shared) shared_write(address, &m, sizeof m);
  else memcpy(reinterpret_cast<char*>(address), &m, sizeof m);
}
void tensormap_copy_fence(uint64_t dst, uint64_t src, int bytes, int site) {
  if (bytes != sizeof(TensorMap)) emu::die("tensormap.cp_fenceproxy: a tensor map has 128 bytes");
  check_shared(src, bytes, 128);
  once_per_warp([=] {
    const char* data = shared_read(src, bytes);
    memcpy(global_at(dst, bytes, 128, site, STORE, data), data, bytes);
  });
}

inline void tma_block_start() { store_queues.assign(thread_count, {}); }
// A copy may outlive its thread once its source was read; it has arrived when the kernel ends.
inline void tma_thread_exit() {
  StoreQueue& q = store_queues[emu::cur->id];
  if (!q.open.empty()) emu::die("thread exits with a bulk copy not committed");
  for (size_t i = q.read_done; i < q.groups.size(); i++)
    if (!q.groups[i].second.empty()) emu::die("thread exits with a bulk copy from shared memory in flight");
  if (!q.groups.empty()) bulk_wait(0, false);
}

}  // namespace ptx
