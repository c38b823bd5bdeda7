// leaky_mask_mul: a tensor times the derivative of (leaky) ReLU, taken from its output. Description: leaky_mask_mul.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "dtype.h"

namespace fastgan::cuda {

struct LeakyMaskMulParams {
  const void* t;  // `numel` elements
  const void* y;  // as t, in the same memory order
  void* out;      // as t; may be t itself
  int64_t numel;  // > 0
  DType dtype;    // of all three
  float negative_slope;
};

cudaError_t leaky_mask_mul(const LeakyMaskMulParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
