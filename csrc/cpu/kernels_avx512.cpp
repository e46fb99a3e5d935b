// The same loops for processors with AVX-512.
#include "tables.h"

#ifdef FUSED_RESNET_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define FUSED_RESNET_FMA
#define FUSED_RESNET_INTRINSICS_AVX512
#define FUSED_RESNET_VECTOR_BYTES 64
#define FUSED_RESNET_PANEL_VECTORS 4
#define FUSED_RESNET_ISA avx512
#include "table_impl.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
