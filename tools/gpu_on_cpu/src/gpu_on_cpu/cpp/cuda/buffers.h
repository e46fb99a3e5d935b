// Memory of tensors and shared variables, laid out so that accesses out of bounds are noticed: between forbidden pages,
// or, under AddressSanitizer, between poisoned bytes. Aligned as promised, and not better.
#pragma once
#include <signal.h>
#include <sys/mman.h>

#include <list>
#include <new>

#include "../fibers/fibers.h"

namespace emu {

constexpr size_t PAGE = 4096, FENCE = 1 << 20;
constexpr unsigned char NAN_BYTE = 0xFF;  // makes a NaN in every float format

// memset, but not instrumented: it fills poisoned bytes too, and no race detector sees it.
__attribute__((no_sanitize("address", "thread", "undefined"), optimize("no-tree-loop-distribute-patterns"))) inline void fill_nan(void* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) static_cast<unsigned char*>(at)[i] = NAN_BYTE;
}

struct Buffer {
  std::string name;
  char* data;
  size_t bytes;
  char *low, *high;  // the mapping with its forbidden pages

  Buffer(std::string name_, size_t bytes_, size_t alignment) : name(std::move(name_)), bytes(bytes_) {
#if defined(__SANITIZE_ADDRESS__)
    const size_t whole = (bytes + 3 * alignment) / alignment * alignment;
    low = static_cast<char*>(aligned_alloc(2 * alignment, (whole + 2 * alignment) / (2 * alignment) * (2 * alignment)));
    high = low + bytes + alignment, data = low + alignment;
    sanitizer::poison(low, alignment);
    sanitizer::poison(data + bytes, whole - alignment - bytes);
#else
    const size_t inside = (bytes + 2 * alignment + PAGE - 1) / PAGE * PAGE;
    low = static_cast<char*>(mmap(nullptr, inside + 2 * FENCE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (low == MAP_FAILED || mprotect(low + FENCE, inside, PROT_READ | PROT_WRITE)) die("out of memory");
    high = low + inside + 2 * FENCE;
    data = high - FENCE - (bytes + alignment - 1) / alignment * alignment;
    if (reinterpret_cast<uintptr_t>(data) % (2 * alignment) == 0) data -= alignment;
    for (char* p = low + FENCE; p < high - FENCE; p++) *p = static_cast<char>(margin(p));
#endif
  }

  // What surrounds the data: a NaN in every float format, and another one for each buffer, so that a kernel that copies
  // from margin to margin is noticed.
  unsigned char mark = static_cast<unsigned char>(0x81 + made++ % 126);
  static inline unsigned made = 0;
  unsigned char margin(const char* p) const { return reinterpret_cast<uintptr_t>(p) & 1 ? 0x7F : mark; }

  // A kernel that writes to the few bytes up to the forbidden pages is told at the end of the block.
  void check() const {
#if !defined(__SANITIZE_ADDRESS__)
    auto untouched = [this](const char* from, const char* to) {
      for (; from < to; from++)
        if (static_cast<unsigned char>(*from) != margin(from)) return false;
      return true;
    };
    if (!untouched(data + bytes, high - FENCE)) die(("out of bounds: bytes past the end of " + name + " were written").c_str());
    if (!untouched(low + FENCE, data)) die(("out of bounds: bytes before the start of " + name + " were written").c_str());
#endif
  }
};

// Lists, because references into them stay valid; functions, because shared variables may be made before main.
inline std::list<Buffer>& tensors() {
  static std::list<Buffer> all;
  return all;
}
inline std::list<Buffer>& allocations() {  // of cudaMalloc
  static std::list<Buffer> all;
  return all;
}
inline std::list<Buffer>& shared_variables() {
  static std::list<Buffer> all;
  return all;
}

// Dynamic shared memory has one address for the life of the process; what is past its end is forbidden at each launch.
struct DynamicShared {
  char* start;
  size_t bytes = 0;
  static constexpr size_t ROOM = (MAX_SHARED + PAGE - 1) / PAGE * PAGE;

  DynamicShared() {
    char* low = static_cast<char*>(mmap(nullptr, ROOM + 2 * FENCE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (low == MAP_FAILED) die("out of memory");
    start = low + FENCE;
  }
  size_t pages() const { return (bytes + PAGE - 1) / PAGE * PAGE; }

  void resize(size_t wanted) {
    sanitizer::unpoison(start, ROOM);
    if (mprotect(start, ROOM, PROT_NONE)) die("out of memory");
    bytes = wanted;
    if (pages() && mprotect(start, pages(), PROT_READ | PROT_WRITE)) die("out of memory");
    fill_nan(start, pages());
    sanitizer::poison(start + bytes, ROOM - bytes);
  }
  void check() const {
#if !defined(__SANITIZE_ADDRESS__)
    for (size_t i = bytes; i < pages(); i++)
      if (static_cast<unsigned char>(start[i]) != NAN_BYTE)
        die("out of bounds: bytes past the end of the dynamic shared memory were written");
#endif
  }
};
inline DynamicShared& dynamic_shared() {
  static DynamicShared memory;
  return memory;
}

// Says what an address that may not be touched is close to.
inline std::string describe(const char* address) {
  auto relative = [&](const std::string& name, const char* data, size_t bytes) {
    const bool before = address < data;
    const long distance = before ? data - address : address - (data + bytes);
    return "out of bounds: " + std::to_string(distance) + (before ? " bytes before the start of " : " bytes past the end of ") + name +
           " (" + std::to_string(bytes) + " bytes)";
  };
  for (auto* list : {&tensors(), &allocations(), &shared_variables()})
    for (const Buffer& b : *list)
      if (address >= b.low && address < b.high) return relative(b.name, b.data, b.bytes);
  const DynamicShared& d = dynamic_shared();
  if (address >= d.start - FENCE && address < d.start + DynamicShared::ROOM + FENCE) return relative("the dynamic shared memory", d.start, d.bytes);
  if (address < reinterpret_cast<const char*>(PAGE)) return "null pointer";
  return "access to an address that belongs to nothing";
}

inline void on_bad_access(int, siginfo_t* info, void*) { die(describe(static_cast<char*>(info->si_addr)).c_str()); }

// AddressSanitizer has its own handler.
inline void install_fault_handler() {
#if !defined(__SANITIZE_ADDRESS__)
  static char stack[64 << 10];
  const stack_t alternative{stack, 0, sizeof stack};
  sigaltstack(&alternative, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_bad_access;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
#endif
}

}  // namespace emu
