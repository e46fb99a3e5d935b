// Memory that goes from one tensor to the next. Fresh memory is filled with zeros by the system and costs a page fault
// every 4 KiB, microseconds each on a virtual machine: for activations that is as much as what is computed of them, for
// weights packed in every step more than the packing.
#pragma once

#include <ATen/core/Tensor.h>

namespace fused_resnet {

// An uninitialised fp32 tensor for the length of an op, which profilers do not see: it is no activation.
at::Tensor pooled(at::IntArrayRef sizes);

// An uninitialised activation of any size. Where it is large its memory comes from the pool and goes back to it, and
// fresh memory is asked for in pages of 2 MiB, as NumPy does; a small one is `at::empty`'s.
at::Tensor empty_recycled(at::IntArrayRef sizes, at::ScalarType dtype, at::MemoryFormat format);

// Bytes that lie idle, for tests and reports.
int64_t idle_bytes();

// Gives to the system what lies idle.
void empty_pool();

} // namespace fused_resnet
