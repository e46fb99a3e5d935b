// Reads the arguments of a launcher from files, calls it, writes the tensors back.
#pragma once
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "buffers.h"
#include "runtime.h"

namespace emu {

inline std::vector<Argument> arguments;

inline Buffer& read_tensor(const std::string& path, size_t bytes, size_t number) {
  tensors().emplace_back("argument " + std::to_string(number), bytes, 16);
  Buffer& b = tensors().back();
  std::ifstream file(path, std::ios::binary);
  if (!file.read(b.data, static_cast<std::streamsize>(bytes))) die(("cannot read " + path).c_str());
  return b;
}

// One argument a line: "tensor FILE BYTES ITEM", "same NUMBER", "integer N", "real X", "null".
inline void read_arguments(const char* path) {
  std::ifstream file(path);
  for (std::string line, kind; std::getline(file, line);) {
    std::istringstream in(line);
    in >> kind;
    Argument a{Argument::POINTER, nullptr, 0, 0, 0};
    if (kind == "tensor") {
      std::string name;
      size_t bytes;
      in >> name >> bytes >> a.item;
      a.pointer = read_tensor(name, bytes, arguments.size()).data;
    } else if (kind == "same") {
      size_t earlier;
      in >> earlier;
      a = arguments[earlier];
    } else if (kind == "integer") {
      a.kind = Argument::INTEGER;
      in >> a.integer;
    } else if (kind == "real") {
      std::string text;
      in >> text;
      a.kind = Argument::REAL, a.real = strtod(text.c_str(), nullptr);
    }
    arguments.push_back(a);
  }
}

void wrong_argument(int index, const char* what) { die(("argument " + std::to_string(index) + ": " + what).c_str()); }
void wrong_count(int given, int expected) {
  die(("the launcher takes " + std::to_string(expected) + " arguments, not " + std::to_string(given)).c_str());
}
void failed_launcher(long long status) { die(("the launcher returned " + std::to_string(status)).c_str()); }

// Where the kernel was when a sanitizer stopped it.
inline void print_position() {
  const Thread nobody;
  const Thread& t = cur ? *cur : nobody;
  fprintf(stderr, "gpu_on_cpu-at\t%u %u %u\t%u %u %u\n", block_index.x, block_index.y, block_index.z, t.tid.x, t.tid.y, t.tid.z);
}

inline void report_faults() {
  install_fault_handler();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  __sanitizer_set_death_callback(print_position);
#endif
}

// argv: ARGUMENTS PRINTED OUTPUTS LAUNCHER. What the program prints goes to the file PRINTED, tensors to OUTPUTS.
int drive(const Launcher* launchers, int count, int argc, char** argv) {
  if (argc != 5) return 2;
  report_faults();
  if (!freopen(argv[2], "w", stdout)) return 2;
  read_arguments(argv[1]);
  for (int i = 0; i < count; i++)
    if (!strcmp(launchers[i].name, argv[4])) launchers[i].call(arguments.data(), static_cast<int>(arguments.size()));
  fflush(stdout);
  std::ofstream out(argv[3], std::ios::binary);
  for (const Buffer& b : tensors()) out.write(b.data, static_cast<std::streamsize>(b.bytes));
  out.close();
  return out ? 0 : 2;
}

}  // namespace emu
