// bn_stats: mean, biased variance and 1 / sqrt(var + eps) of every channel; inverse_std: the latter alone; running_stats: what a
// BatchNorm remembers of them. Description: bn_stats.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "dtype.h"
#include "image.h"

namespace fastgan::cuda {

struct BnStatsParams {
  const void* z;     // (N, C, S) in shape.layout
  ImageShape shape;  // numel() > 0, per_channel() < 2^31
  DType dtype;       // of z
  float* mean;       // (C,)
  float* var;        // (C,) biased variance
  float* invstd;     // (C,) 1 / sqrt(var + eps), or null
  float eps;         // of invstd
  void* workspace;   // bn_stats_workspace() bytes, 16-byte aligned; nothing in it survives
};

int64_t bn_stats_workspace(const BnStatsParams& p);
cudaError_t bn_stats(const BnStatsParams& p, cudaStream_t stream);

struct InverseStdParams {
  const float* var;  // (C,)
  float* invstd;     // (C,)
  int64_t channels;  // C > 0
  float eps;
};

cudaError_t inverse_std(const InverseStdParams& p, cudaStream_t stream);

struct RunningStatsParams {
  const float* mean;    // (C,) of a batch
  const float* invstd;  // (C,) of the same, made with eps
  void* running_mean;   // (C,), updated in place
  void* running_var;    // (C,), updated in place
  int64_t channels;     // C > 0
  DType dtype;          // of running_mean and running_var
  float momentum;       // weight of the batch
  float correction;     // unbiased variance / biased variance
  float eps;
};

cudaError_t running_stats(const RunningStatsParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
