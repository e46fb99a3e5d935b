// What translated PTX calls. The definitions are compiled once, in runtime.cpp.
#pragma once
#include <initializer_list>

#include "scalar.h"

namespace ptx {

enum Access { LOAD = 0, STORE = 1, ATOMIC = 2 };
enum class Shuffle { UP, DOWN, BFLY, IDX };
struct F16;
struct BF16;
struct TF32;
struct S8;
struct U8;

struct Grid {
  emu::U3 block_index, block_dim, grid_dim;
};
emu::Thread& me();  // the running thread
const Grid& grid();
using KernelFunction = void (*)(const void* const* args);
void declare_variable(void* address, uint64_t bytes, bool writable);  // of the module; before launch
void launch(emu::U3 grid, emu::U3 block, uint64_t shared_bytes, KernelFunction kernel, const void* const* args);

// ---- memory. `site` is the number of the instruction in the kernel (for the traffic meter), negative for all but its
// first access.
const char* load_shared(uint64_t a, int bytes);
void store_shared(uint64_t a, const void* v, int bytes);
const char* load_global(uint64_t a, int bytes, int site);
void store_global(uint64_t a, const void* v, int bytes, int site);
const char* load_generic(uint64_t a, int bytes, int site);
void store_generic(uint64_t a, const void* v, int bytes, int site);
const char* load_local(uint64_t a, int bytes);
void store_local(uint64_t a, const void* v, int bytes);
uint64_t shared_base();  // generic address of shared memory
bool is_shared(uint64_t generic);

// An address that the kernel computed: `bytes` there, if they are in one of its parameters.
struct Parameter {
  const void* start;
  uint64_t bytes;
};
inline const char* parameter_at(uint64_t a, uint64_t bytes, std::initializer_list<Parameter> parameters) {
  for (const Parameter& p : parameters)
    if (uint64_t start = reinterpret_cast<uint64_t>(p.start); a >= start && a + bytes <= start + p.bytes) return reinterpret_cast<const char*>(a);
  emu::die("ld.param: outside the parameters");
}

// An atomic is two calls around the computation, because only the translated code knows its type.
char* begin_atomic(uint64_t a, int bytes, int site);  // global, or generic
char* begin_atomic_shared(uint64_t a, int bytes);
void end_atomic(bool acquire_release, bool device);  // device: the scope is wider than the block
template <class T, class Fn>
T atomic(char* p, bool acquire_release, bool device, Fn fn) {
  T old, value;
  memcpy(&old, p, sizeof old);
  value = fn(old);
  memcpy(p, &value, sizeof value);
  end_atomic(acquire_release, device);
  return old;
}
void fence(bool device);  // membar, fence.sc, fence.acq_rel

void cp_async(uint64_t dst, uint64_t src, int bytes, uint64_t valid, int site);
void cp_async_commit();
void cp_async_wait(uint64_t keep);
void cp_async_wait_all();
void fence_proxy_async();

// ---- threads and warps
void barrier_sync(uint32_t id, uint32_t count);
int barrier_reduce(uint32_t id, uint32_t count, bool vote);
void barrier_arrive(uint32_t id, uint32_t count);
void cluster_arrive();
void cluster_wait();
void warp_sync(uint32_t mask);
void exchange(uint32_t mask, uint64_t v, uint64_t* all);
uint32_t shuffle(Shuffle mode, uint32_t v, uint32_t b, uint32_t c, uint32_t mask, bool& valid);
uint32_t ballot(bool p, uint32_t mask);
uint32_t match_any(uint64_t v, uint32_t mask);
uint32_t elect_leader(uint32_t mask);
template <class T, class Fn>
T redux(T v, uint32_t mask, Fn fn) {
  uint64_t all[32];
  exchange(mask, static_cast<uint64_t>(v), all);
  bool first = true;
  T r{};
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) r = first ? static_cast<T>(all[i]) : fn(r, static_cast<T>(all[i])), first = false;
  return r;
}
void trap();

// ---- matrices of a warp
void ldmatrix(int count, bool trans, uint64_t a, uint32_t* r);
void stmatrix(int count, bool trans, uint64_t a, const uint32_t* r);
template <class E, int K>
void mma(float* d, const uint32_t* a, const uint32_t* b, const float* c);
template <int K>
void mma_f16(uint32_t* d, const uint32_t* a, const uint32_t* b, const uint32_t* c);  // f16 accumulators
template <class A, class B, int K>
void mma_int(int32_t* d, const uint32_t* a, const uint32_t* b, const int32_t* c);

// Registers of results that arrive later hold POISON until they are waited for.
constexpr uint32_t POISON = 0xFFF5EEED;  // a NaN, as float and as two 16-bit floats
inline void check_arrived(std::initializer_list<uint32_t> registers) {
  for (uint32_t r : registers)
    if (r == POISON) emu::die("register read before its asynchronous result was waited for");
}

// ---- sm_90
struct WgmmaOperand {  // A: registers, or a descriptor
  const uint32_t** registers;
  uint64_t descriptor;
};
template <class E>
void wgmma(int N, int K, bool f16_accumulators, uint32_t** d, WgmmaOperand a, uint64_t b, bool accumulate, int sign_a, int sign_b,
           bool transpose_a, bool transpose_b);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(uint64_t keep);

void mbarrier_init(uint64_t a, uint32_t count);
void mbarrier_inval(uint64_t a);
uint64_t mbarrier_arrive(uint64_t a, uint32_t count);
void mbarrier_expect_tx(uint64_t a, uint32_t bytes);
bool mbarrier_wait_parity(uint64_t a, uint32_t parity, bool test);  // test: does not block
bool mbarrier_wait_state(uint64_t a, uint64_t state, bool test);

// Copies of tiles and of plain bytes by the tensor memory accelerator.
void bulk_load(uint64_t dst, uint64_t src, uint32_t bytes, uint64_t mbar, int site);
void bulk_store(uint64_t dst, uint64_t src, uint32_t bytes, int site);
void tensor_load(int rank, uint64_t dst, uint64_t map, const int32_t* coordinates, uint64_t mbar, int site);
enum class TensorStore { STORE, ADD, MIN, MAX };
void tensor_store(int rank, TensorStore op, uint64_t map, const int32_t* coordinates, uint64_t src, int site);
void bulk_commit();
void bulk_wait(uint64_t keep, bool read_only);
enum class MapField { ADDRESS, RANK, BOX_DIM, GLOBAL_DIM, GLOBAL_STRIDE, ELEMENT_STRIDE, ELEMTYPE, INTERLEAVE, SWIZZLE, FILL };
void tensormap_replace(MapField field, uint64_t map, bool in_shared, int index, uint64_t value, int site);
void tensormap_copy_fence(uint64_t dst, uint64_t src, int bytes, int site);

// ---- sm_100
void tmem_alloc(uint64_t a, uint32_t columns);
void tmem_dealloc(uint32_t base, uint32_t columns);
void tmem_relinquish();
enum class TmemShape { L32x32b, L16x32bx2, L16x64b, L16x128b, L16x256b };
void tmem_load(TmemShape shape, uint32_t base, int split, uint32_t** regs, int n);
void tmem_store(TmemShape shape, uint32_t base, int split, const uint32_t* values, int n);
void tmem_wait_ld();
void tmem_wait_st();
void tcgen05_mma(uint32_t d, bool a_in_tmem, uint64_t a, uint64_t b, uint32_t descriptor, bool accumulate, bool tf32);
void tcgen05_commit(uint64_t mbar);

}  // namespace ptx
