// Shared memory with the history of every byte: bounds, alignment, races, data still in flight, operands that an
// asynchronous unit may still read.
#pragma once
#include "global.h"

namespace ptx {

constexpr uint32_t ALL = ~0u;

struct Use {  // by an agent (thread or asynchronous unit) at its time
  int16_t agent = -1;
  uint32_t time = 0;
};
struct Cell {
  Use writer, plain;                  // the last writer, and the last that was no atomic
  bool in_flight = false;             // an asynchronous copy to it has not been waited for
  bool atomic = false;                // written by an atomic: others may follow without order
  const emu::Location* at = nullptr;  // the instruction that wrote
  std::vector<Use> readers;           // those not ordered before one another
};
inline std::vector<Cell> cells;
// Lanes of one warp may store to one address in one instruction: some lane wins, undefined which (CUDA C++ Programming
// Guide, "SIMT Architecture"). Triton does it with redundant copies of a value; they can differ in the last bit.
inline uint64_t collisions;

// The same execution of one instruction: lanes of a warp have made equally many releases when they come to it.
inline bool lane_collision(const Cell& c) {
  bool same = c.writer.agent < thread_count && c.writer.agent / 32 == emu::cur->warp && c.at == emu::cur->at && c.writer.time == now();
  return same && ++collisions;
}
// Atomics need no order among themselves, but what reads their result has to be ordered after all of them.
inline std::unordered_map<uint32_t, std::vector<uint32_t>> atomic_times;  // [byte][thread], of cells written by atomics
inline bool atomics_ordered(uint32_t a) {
  const std::vector<uint32_t>& times = atomic_times[a];
  for (int t = 0; t < thread_count; t++)
    if (!ordered(t, times[t])) return false;
  return true;
}
// A reader was ordered after the writer, so whoever knows of a reader is too (an MMA's completion tells no more).
inline bool writer_ordered(const Cell& c) {
  return c.writer.agent < 0 || ordered(c.writer.agent, c.writer.time) ||
         std::any_of(c.readers.begin(), c.readers.end(), [](const Use& r) { return ordered(r.agent, r.time); });
}
inline void check_write(const Cell& c, bool atomic = false) {
  if (c.in_flight) emu::die("shared memory written while an asynchronous copy to it is in flight");
  bool after_atomics = atomic && c.atomic;
  bool before = after_atomics ? c.plain.agent < 0 || ordered(c.plain.agent, c.plain.time) : writer_ordered(c) || lane_collision(c);
  if (!before || (c.atomic && !atomic && !atomics_ordered(&c - cells.data())))
    emu::die("shared-memory race: two threads write, no barrier between");
  for (const Use& r : c.readers) {
    if (ordered(r.agent, r.time)) continue;
    emu::die(r.agent < thread_count ? "shared-memory race: overwritten while others may still read, no barrier between"
                                    : "shared memory overwritten while an asynchronous unit may still read it");
  }
}
inline void note_write(Cell& c, int agent, uint32_t time) {
  c.writer = c.plain = {static_cast<int16_t>(agent), time}, c.at = emu::cur->at, c.atomic = false;
  c.readers.clear();
}
// A thread's read takes the place of one that it knows of; knowing of an asynchronous unit's read tells nothing more.
inline void note_read(Cell& c, int agent, uint32_t time) {
  for (Use& r : c.readers)
    if (r.agent == agent || (agent < thread_count && ordered(r.agent, r.time))) {
      r = {static_cast<int16_t>(agent), time};
      return;
    }
  c.readers.push_back({static_cast<int16_t>(agent), time});
}

inline void note_atomic(Cell& c, uint32_t a) {
  std::vector<uint32_t>& times = atomic_times[a];
  if (!c.atomic) times.assign(thread_count, 0);
  times[emu::cur->id] = now();
  Use plain = c.atomic ? c.plain : c.writer;
  note_write(c, emu::cur->id, now());
  c.plain = plain, c.atomic = true;
}

inline void check_shared(uint64_t a, uint64_t n, int align) {
  if (static_cast<uint32_t>(a) % align) emu::die("misaligned shared access");
  if (static_cast<uint32_t>(a) + n > emu::shared_bytes) emu::die("shared memory out of bounds");
}
// An equal value may be written again by anyone: no order can be seen in the result.
inline void shared_write(uint64_t address, const void* value, int n) {
  uint32_t a = static_cast<uint32_t>(address);
  const char* v = static_cast<const char*>(value);
  for (int i = 0; i < n; i++) {
    Cell& c = cells[a + i];
    bool same = emu::shared[a + i] == v[i] && c.writer.agent >= 0 && !c.in_flight;
    if (same) {
      for (const Use& r : c.readers)
        if (r.agent >= thread_count && !ordered(r.agent, r.time)) check_write(c);
      continue;
    }
    check_write(c);
    note_write(c, emu::cur->id, now());
    emu::shared[a + i] = v[i];
  }
}
inline const char* shared_read(uint64_t address, int n) {
  uint32_t a = static_cast<uint32_t>(address);
  for (int i = 0; i < n; i++) {
    Cell& c = cells[a + i];
    if (c.in_flight) emu::die("shared memory read before the asynchronous copy to it was waited for");
    if ((c.writer.agent >= 0 && !ordered(c.writer.agent, c.writer.time)) || (c.atomic && !atomics_ordered(a + i)))
      emu::die("shared-memory race: read of another thread's value, no barrier between");
    note_read(c, emu::cur->id, now());
  }
  return emu::shared + a;
}

// An asynchronous unit reads n bytes: they must have arrived, be ordered before this thread, be visible to the
// asynchronous proxy (fence.proxy.async by the writer, or by anyone after the order was made), and stay until the
// completion of the unit's operation `time` is known.
inline void async_read(uint32_t a, int n, int agent, uint32_t time) {
  if (uint64_t(a) + n > emu::shared_bytes) emu::die("an asynchronous unit reads outside shared memory");
  const Clock& mine = my_clock();
  for (int i = 0; i < n; i++) {
    Cell& c = cells[a + i];
    if (c.in_flight) emu::die("an asynchronous unit reads shared memory before the copy to it was waited for");
    if (c.writer.agent >= 0) {
      if (!ordered(c.writer.agent, c.writer.time)) emu::die("an asynchronous unit reads what another thread wrote, no barrier between");
      if (c.writer.agent < thread_count && mine.fenced[c.writer.agent] < c.writer.time)
        emu::die("an asynchronous unit reads shared memory without fence.proxy.async");
    }
    note_read(c, agent, time);
  }
}
// Everything this thread knows of is visible to the asynchronous proxy from here on.
void fence_proxy_async() {
  Clock& c = my_clock();
  for (int i = 0; i < width; i++) c.fenced[i] = std::max(c.fenced[i], c.seen[i]);
  c.seen[emu::cur->id]++;
}

// The destination of an asynchronous copy is NaN and untouchable until somebody waited for it.
inline void begin_flight(uint32_t a, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    Cell& c = cells[a + i];
    if (c.in_flight) emu::die("asynchronous copy to shared memory that already has one in flight");
    check_write(c);
    c.in_flight = true;
    note_write(c, emu::cur->id, now());
  }
  memset(emu::shared + a, 0xFF, n);
}
inline void end_flight(uint32_t a, uint32_t n, int agent, uint32_t time) {
  for (uint32_t i = 0; i < n; i++) cells[a + i].in_flight = false, note_write(cells[a + i], agent, time);
}

// ---- plain accesses
bool is_shared(uint64_t generic) {
  uint64_t base = reinterpret_cast<uint64_t>(emu::shared);
  return emu::shared && generic >= base && generic < base + emu::shared_bytes;
}
uint64_t shared_base() { return reinterpret_cast<uint64_t>(emu::shared); }
const char* load_shared(uint64_t a, int bytes) {
  check_shared(a, bytes, bytes);
  return shared_read(a, bytes);
}
void store_shared(uint64_t a, const void* v, int bytes) {
  check_shared(a, bytes, bytes);
  shared_write(a, v, bytes);
}
const char* load_global(uint64_t a, int bytes, int site) {
  static char inverted[32];
  bool racing = false;
  const char* p = global_at(a, bytes, bytes, site, LOAD, nullptr, &racing);
  if (!racing || racing_loads != RacingLoads::INVERT) return p;
  for (int i = 0; i < bytes; i++) inverted[i] = ~p[i];
  return inverted;
}
void store_global(uint64_t a, const void* v, int bytes, int site) { memcpy(global_at(a, bytes, bytes, site, STORE, v), v, bytes); }
// Local memory lies on the thread's own stack.
inline bool is_local(uint64_t a) {
  uint64_t stack = reinterpret_cast<uint64_t>(emu::stack_memory[emu::cur->id]);
  return a >= stack && a < stack + emu::STACK_BYTES;
}
inline char* local_at(uint64_t a, int bytes) {
  if (a % bytes) emu::die("misaligned local access");
  if (!is_local(a)) emu::die("local access outside the thread's own memory");
  return reinterpret_cast<char*>(a);
}
const char* load_local(uint64_t a, int bytes) { return local_at(a, bytes); }
void store_local(uint64_t a, const void* v, int bytes) { memcpy(local_at(a, bytes), v, bytes); }
const char* load_generic(uint64_t a, int bytes, int site) {
  return is_shared(a) ? load_shared(a - shared_base(), bytes) : is_local(a) ? load_local(a, bytes) : load_global(a, bytes, site);
}
void store_generic(uint64_t a, const void* v, int bytes, int site) {
  if (is_shared(a)) store_shared(a - shared_base(), v, bytes);
  else if (is_local(a)) store_local(a, v, bytes);
  else store_global(a, v, bytes, site);
}

// ---- atomics. They are ordered among themselves; those with release or acquire order what stands around them.
inline std::unordered_map<uint64_t, Clock> atomic_clocks;  // [address], of this block
inline uint64_t atomic_address;
inline bool atomic_is_global;

char* begin_atomic(uint64_t a, int bytes, int site) {
  if (is_shared(a)) return begin_atomic_shared(a - shared_base(), bytes);
  atomic_address = a, atomic_is_global = true;
  return global_at(a, bytes, bytes, site, ATOMIC, nullptr);
}
char* begin_atomic_shared(uint64_t address, int bytes) {
  check_shared(address, bytes, bytes);
  uint32_t a = static_cast<uint32_t>(address);
  for (int i = 0; i < bytes; i++) {
    Cell& c = cells[a + i];
    check_write(c, true);
    note_atomic(c, a + i);
  }
  atomic_address = a, atomic_is_global = false;
  return emu::shared + a;
}
void end_atomic(bool acquire_release, bool device) {
  if (atomic_is_global && device) order_blocks(atomic_address, acquire_release);
  if (!acquire_release) return;
  Clock& c = atomic_clocks[atomic_address << 1 | atomic_is_global];
  if (c.seen.empty()) c.clear();
  acquire(c);
  release(c);
}

inline void shared_block_start() {
  if (cells.size() < emu::shared_bytes) cells.resize(emu::shared_bytes);
  for (Cell& c : cells) c.writer = c.plain = {}, c.in_flight = c.atomic = false, c.at = nullptr, c.readers.clear();
  atomic_clocks.clear(), atomic_times.clear();
}

}  // namespace ptx
