// The program that executes a kernel:  run <library of the translated kernel> <kernel> <file descriptor>
//
// The descriptor is of memory that the caller shares: words of 64 bits that say what to do, then the tensors. Offsets
// count from its start, because it lies elsewhere here than there. The other side is ptx/module.py.
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

extern "C" {
void gpu_on_cpu_seed(int seed);
void gpu_on_cpu_racing_loads(int treatment);
void gpu_on_cpu_ranges(const uint64_t* lo, const uint64_t* bytes, const int* writable, int n, int metering);
uint64_t gpu_on_cpu_collisions();
void gpu_on_cpu_traffic(uint64_t* out);
}

struct Header {
  uint64_t seed, metering, racing_loads, shape[6], dynamic_shared, regions, parameters, relocations;
  uint64_t collisions;  // written here
};
struct RegionWords {
  uint64_t offset, size, writable;
};
enum Kind : uint64_t { VALUE, ADDRESS, BYTES };
struct ParameterWords {
  uint64_t kind, value;
};

[[noreturn]] static void fail(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(2);
}

int main(int argc, char** argv) {
  if (argc != 4) fail("usage", "run LIBRARY KERNEL DESCRIPTOR");
  int fd = atoi(argv[3]);
  struct stat status;
  if (fstat(fd, &status)) fail("the descriptor", "not open");
  void* memory = mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) fail("the descriptor", "cannot be mapped");
  uint64_t base = reinterpret_cast<uint64_t>(memory);
  Header& h = *static_cast<Header*>(memory);
  auto* regions = reinterpret_cast<RegionWords*>(&h + 1);
  auto* parameters = reinterpret_cast<ParameterWords*>(regions + h.regions);
  auto* relocations = reinterpret_cast<uint64_t*>(parameters + h.parameters);  // words that hold addresses
  auto* traffic = relocations + h.relocations;

  std::vector<uint64_t> addresses, sizes;
  std::vector<int> writable;
  for (uint64_t i = 0; i < h.regions; i++) {
    addresses.push_back(base + regions[i].offset), sizes.push_back(regions[i].size);
    writable.push_back(regions[i].writable != 0);
  }
  std::vector<const void*> args;
  for (uint64_t i = 0; i < h.parameters; i++) {
    ParameterWords& p = parameters[i];
    if (p.kind == ADDRESS) p.value += base;
    args.push_back(p.kind == BYTES ? reinterpret_cast<const void*>(base + p.value) : static_cast<const void*>(&p.value));
  }
  for (uint64_t i = 0; i < h.relocations; i++) *reinterpret_cast<uint64_t*>(base + relocations[i]) += base;
  unsigned shape[6];
  for (int i = 0; i < 6; i++) shape[i] = static_cast<unsigned>(h.shape[i]);

  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) fail("the kernel's library", dlerror());
  using Run = void (*)(const void* const* args, const unsigned* shape, unsigned dynamic_shared);
  auto run = reinterpret_cast<Run>(dlsym(library, (std::string("run_") + argv[2]).c_str()));
  if (!run) fail("the kernel", dlerror());
  gpu_on_cpu_seed(static_cast<int>(h.seed));
  gpu_on_cpu_racing_loads(static_cast<int>(h.racing_loads));
  gpu_on_cpu_ranges(addresses.data(), sizes.data(), writable.data(), static_cast<int>(h.regions), h.metering != 0);
  run(args.data(), shape, static_cast<unsigned>(h.dynamic_shared));
  gpu_on_cpu_traffic(traffic);
  h.collisions = gpu_on_cpu_collisions();
}
