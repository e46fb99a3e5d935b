// What AddressSanitizer and ThreadSanitizer must be told of fibers: which stack runs, and which memory accesses are the
// emulator's own bookkeeping and not the kernel's. Everything here is empty without a sanitizer.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#define NOTSAN __attribute__((no_sanitize("thread")))
#else
#define NOTSAN
#endif

namespace emu::sanitizer {

// While one of these lives, the thread's accesses are invisible to ThreadSanitizer.
struct Ignore {
#if defined(__SANITIZE_THREAD__)
  Ignore() {
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~Ignore() {
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
  }
#else
  Ignore() {}
  ~Ignore() {}
#endif
};

// The edges of happens-before that a barrier or a warp collective makes.
inline void release([[maybe_unused]] void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(object);
#endif
}
inline void acquire([[maybe_unused]] void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(object);
#endif
}

// One stack that can be switched to: a fiber's, or the process's own.
struct Stack {
  void* tsan = nullptr;
  void* fake = nullptr;           // ASan's shadow of the stack
  const void* bottom = nullptr;
  size_t size = 0;

  void create([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    bottom = memory, size = bytes;
    __asan_unpoison_memory_region(memory, bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    tsan = __tsan_create_fiber(0);
#endif
  }
  void adopt_current() {
#if defined(__SANITIZE_THREAD__)
    tsan = __tsan_get_current_fiber();
#endif
  }
  void destroy() {
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(tsan);
#endif
  }
};

// Around the switch from one stack to another; `dying` if nobody returns to `from`.
NOTSAN inline void before_switch([[maybe_unused]] Stack& from, [[maybe_unused]] const Stack& to, [[maybe_unused]] bool dying) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(dying ? nullptr : &from.fake, to.bottom, to.size);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, 1 /* makes no happens-before */);
#endif
}
NOTSAN inline void after_switch([[maybe_unused]] Stack& self) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self.fake, nullptr, nullptr);
#endif
}
NOTSAN inline void first_switch([[maybe_unused]] Stack& came_from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &came_from.bottom, &came_from.size);
#endif
}

inline void poison([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(memory, bytes);
#endif
}
inline void unpoison([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory, bytes);
#endif
}

}  // namespace emu::sanitizer
