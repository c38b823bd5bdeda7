// clip_weights: every weight limited to [-clip_value, clip_value], in place. Description: clip_weights.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "dtype.h"

namespace fastgan::cuda {

struct ClipWeightsParams {
  void* const* weights;  // `tensors` device pointers, each to numel[t] dense elements
  const int64_t* numel;
  int tensors;
  DType dtype;
  float clip_value;  // >= 0
};

cudaError_t clip_weights(const ClipWeightsParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
