// Memory of tensors that live as long as one op, kept from one op to the next: fresh memory costs a page fault every
// 4 KiB, which for weights packed in every step is more than the packing.
#pragma once

#include <ATen/core/Tensor.h>

namespace fused_resnet {

// An uninitialised fp32 tensor whose memory comes from, and goes back to, the pool.
at::Tensor pooled(at::IntArrayRef sizes);

} // namespace fused_resnet
