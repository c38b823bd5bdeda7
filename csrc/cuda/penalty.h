// penalty: per-sample gradient norms, the gradient penalty and its derivative. Description: penalty.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "dtype.h"

namespace fastgan::cuda {

struct PenaltyParams {
  const void* grad;    // (N, D) dense, a sample's D elements adjacent
  void* grad_penalty;  // (N, D) in the same memory order
  float* penalty;      // scalar
  float* norms;        // (N,)
  int64_t samples;     // N > 0
  int64_t elements;    // D > 0
  DType dtype;         // of grad and grad_penalty
  float weight, target;
  bool one_sided;
  float* workspace;  // penalty_workspace() bytes
};

int64_t penalty_workspace(const PenaltyParams& p);
cudaError_t penalty(const PenaltyParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
