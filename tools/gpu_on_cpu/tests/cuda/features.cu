// What nvcc makes of ordinary CUDA C++: local arrays, tables, switches, library functions, 64-bit division, doubles,
// parameters by value, barriers that vote, atomics in shared memory.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

struct Options {
  int n;
  float factor;
  double offset;
  unsigned char flag;
};

__constant__ int table[8] = {3, 1, 4, 1, 5, 9, 2, 6};
__device__ float counter = 0.f;

extern "C" __global__ void options(const float* x, double* y, Options o) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < o.n) y[i] = o.flag ? x[i] * o.factor + o.offset : 0.;
}

extern "C" __global__ void library(const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  y[i] = sinf(v);
  y[n + i] = expf(fminf(fmaxf(v * 1e-3f, -80.f), 80.f));
  y[2 * n + i] = logf(fabsf(v) + 1.f);
  y[3 * n + i] = powf(fabsf(v), 0.3f);
  y[4 * n + i] = tanhf(v * 1e-3f);
  y[5 * n + i] = erff(v * 1e-3f);
  y[6 * n + i] = fmodf(v, 7.3f);
  y[7 * n + i] = rsqrtf(fabsf(v) + 1.f) + sqrtf(fabsf(v)) + 1.f / (v * v + 1.f);
}

extern "C" __global__ void integers(const long long* x, long long* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  long long a = x[i], b = x[n + i];
  y[i] = a / b;
  y[n + i] = a % b;
  y[2 * n + i] = (long long)((unsigned long long)a / (unsigned long long)b);
  y[3 * n + i] = __mul64hi(a, b);
  y[4 * n + i] = __popcll(a) + __clzll(b) * 100 + __ffsll(a) * 10000;
  y[5 * n + i] = (a << (b & 63)) ^ (a >> (b & 63));
}

// A local array that is indexed at run time, a table in constant memory, a switch.
extern "C" __global__ void control(const int* x, int* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int history[16];
  int v = x[i];
  for (int k = 0; k < 16; k++) history[k] = v * k + table[k & 7];
  int s = history[v & 15];
  switch (v % 7) {
    case 0: s += 10; break;
    case 1: s *= 3; break;
    case 2: s ^= 0x55; break;
    case 3: s -= history[(v >> 4) & 15]; break;
    case 4: s = -s; break;
    case 5: s = s << 2; break;
    default: s = 7;
  }
  y[i] = s;
}

extern "C" __global__ void reductions(const float* x, float* sums, int* votes, int n) {
  __shared__ float total;
  __shared__ int histogram[32];
  int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  if (t == 0) total = 0.f;
  if (t < 32) histogram[t] = 0;
  __syncthreads();
  float v = i < n ? __ldg(x + i) : 0.f;
  float warp = v;
  for (int d = 16; d; d /= 2) warp += __shfl_xor_sync(~0u, warp, d);
  if (t % 32 == 0) atomicAdd(&total, warp);
  atomicAdd(&histogram[(__float_as_int(v) >> 23) & 31], 1);
  int positive = __syncthreads_count(v > 0.f), all = __syncthreads_and(v > -100.f), any = __syncthreads_or(v > 100.f);
  if (t == 0) {
    sums[blockIdx.x] = total;
    votes[blockIdx.x * 4] = positive, votes[blockIdx.x * 4 + 1] = all != 0, votes[blockIdx.x * 4 + 2] = any != 0;
    votes[blockIdx.x * 4 + 3] = histogram[30];
    atomicAdd(&counter, total);
  }
}

extern "C" __global__ void halves(const __half* x, const __nv_bfloat16* z, __half* y, __nv_bfloat16* w, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  __half2 p = __halves2half2(x[i], __float2half(2.f));
  y[i] = __low2half(__hfma2(p, p, __float2half2_rn(1.f)));
  w[i] = __hadd(__hmul(z[i], z[i]), __int2bfloat16_rn(i));
}

// A structure with pointers in it.
struct Pair {
  const float* from;
  int n, skip;
  float* to;
};
extern "C" __global__ void halve(Pair p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.to[i] = p.from[i + p.skip] / 2;
}
