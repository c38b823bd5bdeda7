// interpolate: points between real and fake samples, one epsilon a sample. Description: interpolate.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "dtype.h"

namespace fastgan::cuda {

struct InterpolateParams {
  const void* real;     // (N, D) dense, D = elements a sample
  const void* fake;     // (N, D) in the same memory order
  const void* epsilon;  // (N,)
  void* out;            // (N, D)
  int64_t samples;      // N > 0
  int64_t elements;     // D > 0, < 2^30
  DType dtype;          // of real, fake and out
  DType epsilon_dtype;
};

cudaError_t interpolate(const InterpolateParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
