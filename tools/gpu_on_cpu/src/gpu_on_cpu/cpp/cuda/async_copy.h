// cp.async: the bytes arrive when they are waited for; until then the destination is NaN.
#pragma once
#include "buffers.h"

namespace emu {

struct PendingCopy {
  void* to;
  const void* from;
  int bytes, valid;
};
struct AsyncCopies {
  std::vector<PendingCopy> open;                 // not committed
  std::vector<std::vector<PendingCopy>> groups;  // oldest first
};
inline std::vector<AsyncCopies> async_copies;  // [thread]

void async_copy(void* to, const void* from, int bytes, int valid) {
  {
    sanitizer::Ignore _;
    if ((reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0)) % bytes) die("cp.async: misaligned address");
    if (valid < 0 || valid > bytes) die("cp.async: source size out of range");
    if (!is_shared(to, bytes)) die("cp.async: the destination is not in shared memory");
    async_copies[cur->id].open.push_back({to, from, bytes, valid});
  }
  memset(to, NAN_BYTE, bytes);  // the kernel's own access: sanitizers see it
}

void async_commit() {
  sanitizer::Ignore _;
  AsyncCopies& mine = async_copies[cur->id];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void async_wait(int groups) {
  std::vector<PendingCopy> arrived;
  {
    sanitizer::Ignore _;
    AsyncCopies& mine = async_copies[cur->id];
    const bool all = groups < 0;
    while (mine.groups.size() > (all ? 0 : static_cast<size_t>(groups))) {
      arrived.insert(arrived.end(), mine.groups[0].begin(), mine.groups[0].end());
      mine.groups.erase(mine.groups.begin());
    }
    if (all) arrived.insert(arrived.end(), mine.open.begin(), mine.open.end()), mine.open.clear();
  }
  for (const PendingCopy& c : arrived) {
    if (c.valid) memcpy(c.to, c.from, c.valid);
    memset(static_cast<char*>(c.to) + c.valid, 0, c.bytes - c.valid);
  }
}

inline void check_async_at_exit() {
  sanitizer::Ignore _;
  const AsyncCopies& mine = async_copies[cur->id];
  bool in_flight = !mine.open.empty();
  for (const auto& group : mine.groups) in_flight |= !group.empty();
  if (in_flight) die("cp.async: the thread ends while copies are in flight");
}

}  // namespace emu
