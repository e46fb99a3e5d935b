// The kernel tables that each kernels_*.cpp defines.
#pragma once

#include "kernels.h"
#include "products.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FUSED_RESNET_X86 1
#endif

namespace fused_resnet {

struct Tables {
  Kernels<float> fp32;
  Kernels<double> fp64;
  Kernels<BFloat16> bf16;
  ProductKernels products;
  OperandKernels<float> operands_fp32;
  OperandKernels<BFloat16> operands_bf16;
};

namespace baseline {
extern const Tables tables;
}
namespace avx2 {
extern const Tables tables;
}
namespace avx512 {
extern const Tables tables;
}
namespace wide { // for tests
extern const Tables tables;
}

} // namespace fused_resnet
