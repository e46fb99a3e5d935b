// The few things of fibers.h that translated code sees. Light, because it is compiled with every kernel.
#pragma once

namespace emu {

struct U3 {
  unsigned x = 0, y = 0, z = 0;
};

// A place in the program, for error reports.
struct Location {
  int line;
  const char* text;
};
inline constexpr Location NOWHERE{0, ""};

struct Thread {
  U3 tid;
  int id = 0, lane = 0, warp = 0;
  const Location* at = &NOWHERE;  // what it executes
};

// Reports an error of the kernel with block, thread and place, and ends the process.
[[noreturn]] void die(const char* reason);

}  // namespace emu
