// The same loops for processors with AVX2.
#include "tables.h"

#ifdef FUSED_RESNET_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define FUSED_RESNET_FMA
#define FUSED_RESNET_INTRINSICS_AVX2
#define FUSED_RESNET_VECTOR_BYTES 32
#define FUSED_RESNET_PANEL_VECTORS 2
#define FUSED_RESNET_ISA avx2
#include "table_impl.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
