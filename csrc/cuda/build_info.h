// What the CUDA sources were compiled for.
#pragma once

#include <string>
#include <vector>

namespace fused_resnet {

// Compute capabilities times ten, such as 90.
std::vector<int> cuda_architectures();

// Of the compiler, such as "13.0".
std::string cuda_version();

// Whether the current GPU can run what was compiled.
bool has_cuda_code();

} // namespace fused_resnet
