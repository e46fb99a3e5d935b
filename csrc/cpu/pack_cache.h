// Packed weights that are used again and again, as in inference, kept until the weight changes or goes.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace fused_resnet {

// Autograd's version counter tells when a weight changed, but not of writes through `.data`: its address and a sample
// of its values are looked at, too.
//
// `pack(weight)` in its form `form`, or what it gave before for the same version of the same tensor. A version is kept only when it is
// asked for a third time: in training every step makes a new one, which is asked for once or, recomputing, twice.
at::Tensor packed_once(const at::Tensor& weight, int form, const std::function<at::Tensor(const at::Tensor&)>& pack);

// `weight` in another dtype, kept in the same way: autocast in inference then casts no weight, and packs none, again.
at::Tensor kept_cast(const at::Tensor& weight, at::ScalarType dtype);

// Bytes that are kept, for tests and reports.
int64_t packed_bytes();

} // namespace fused_resnet
