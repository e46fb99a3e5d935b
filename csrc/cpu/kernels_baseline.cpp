// What the compiler targets by default: SSE2 on x86-64, NEON on arm64.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FUSED_RESNET_FMA
#endif
#define FUSED_RESNET_VECTOR_BYTES 16
#define FUSED_RESNET_PANEL_VECTORS 2
#define FUSED_RESNET_ISA baseline
#include "table_impl.h"
