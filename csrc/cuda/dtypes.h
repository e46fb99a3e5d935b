// What the launchers are told about types and sizes; no torch and no device code here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fused_resnet::cuda {

// Storage of activations and weights; sums, statistics and per-channel vectors are fp32.
enum class Storage { fp32, fp16, bf16 };

constexpr int64_t cdiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

} // namespace fused_resnet::cuda
