// The products' loops for AVX-512 without its instructions: tests run them on any processor.
#include "tables.h"

#ifdef FUSED_RESNET_X86
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#define FUSED_RESNET_VECTOR_BYTES 64
#define FUSED_RESNET_PANEL_VECTORS 4
#define FUSED_RESNET_ISA wide
#include "table_impl.h"
#endif
