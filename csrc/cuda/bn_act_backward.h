// bn_act_backward_reduce and bn_act_backward_elemt: the two passes of bn_act's backward. Description: bn_act_backward.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "bn_act.h"

namespace fastgan::cuda {

struct BnActBackwardParams {
  const void* grad_y;  // (N, C, S) in shape.layout
  const void* y;       // as grad_y: bn_act's output; read for Tanh alone
  const void* z;       // as grad_y: bn_act's input; without normalisation and bias pass y here (the signs agree)
  ImageShape shape;    // numel() > 0, per_channel() < 2^31, C * S < 2^30
  DType dtype;         // of grad_y, y, z, grad_z
  BnChannels channels;
  Activation activation;
  float negative_slope;
};

struct BnActBackwardReduceParams : BnActBackwardParams {
  float* sum_g;       // (C,)
  float* sum_g_xhat;  // (C,)
  void* workspace;    // bn_act_backward_reduce_workspace() bytes, 16-byte aligned
};

struct BnActBackwardElemtParams : BnActBackwardParams {
  const float* g;       // (C,) mean of g = sum_g * sum_weight, or null for 0
  const float* g_xhat;  // (C,) likewise
  float sum_weight;     // 1 where g and g_xhat are means, 1 / (N * S) where they are sums
  void* grad_z;         // as grad_y; may be grad_y itself
};

int64_t bn_act_backward_reduce_workspace(const BnActBackwardReduceParams& p);
cudaError_t bn_act_backward_reduce(const BnActBackwardReduceParams& p, cudaStream_t stream);
cudaError_t bn_act_backward_elemt(const BnActBackwardElemtParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
