// Included before every emulated source: the real CUDA headers, and what nvcc adds to them. `__shared__` and kernel
// launches are rewritten in the preprocessed text (rewrite.py).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#undef __shared__
#define __CUDACC__ 1  // only now: with it, the headers above would need nvcc
#include "atomics.h"
#include "language.h"
#include "math.h"
#include "half.h"
#include "warp.h"
