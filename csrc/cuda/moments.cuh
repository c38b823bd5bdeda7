// Mean and variance of a channel from parts of it: what bn_stats and the convolutions' epilogues share. The order and the
// numerics are bn_stats.cu's.
#pragma once

#include "reduce.cuh"

namespace fastgan::cuda {

// Count, mean and sum of squared deviations of a part.
struct Moments {
  int64_t count;
  float mean, m2;
};

__device__ __forceinline__ float inverse_std_of(float var, float eps) { return 1.f / sqrtf(var + eps); }

// The half of an Op of channel_reduce.cuh that merges parts and writes results.
struct MomentsOp {
  struct Channel {
    float pivot;
  };
  using Partial = Moments;

  float *mean, *var, *invstd;  // (C,); invstd may be null
  float eps;

  // sums of d and d^2, d = z - pivot, to moments and back
  __device__ static Moments close(SumPair sum, const Channel& channel, int64_t count) {
    const float shift = sum.first / static_cast<float>(count);
    const float m2 = sum.second - sum.first * shift;
    return {count, channel.pivot + shift, m2 < 0.f ? 0.f : m2};
  }

  __device__ static Channel centre(const Moments& part) { return {part.mean}; }

  __device__ static SumPair open(const Moments& part, const Channel& channel) {
    const float d = part.mean - channel.pivot, sum = d * static_cast<float>(part.count);
    return {sum, fmaf(d, sum, part.m2)};
  }

  __device__ void finish(int c, const Moments& all) const {
    const float variance = all.m2 / static_cast<float>(all.count);
    mean[c] = all.mean;
    var[c] = variance;
    if (invstd) invstd[c] = inverse_std_of(variance, eps);
  }
};

}  // namespace fastgan::cuda
