// bn_act: normalise, scale, shift, activate in one pass. Description: bn_act.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "activation.h"
#include "dtype.h"
#include "image.h"

namespace fastgan::cuda {

// u = (z - mean) * (gamma * invstd) + beta. A null pointer stands for the neutral value: mean 0, invstd 1, gamma 1, beta 0.
struct BnChannels {
  const float* mean;    // (C,)
  const float* invstd;  // (C,)
  const void* gamma;    // (C,) affine_dtype
  const void* beta;     // (C,) affine_dtype; without normalisation the convolution's bias goes here
  DType affine_dtype;
};

struct BnActParams {
  const void* z;     // (N, C, S) in shape.layout
  void* y;           // as z; may be z itself
  ImageShape shape;  // numel() > 0; C * S < 2^30
  DType dtype;       // of z and y
  BnChannels channels;
  Activation activation;
  float negative_slope;  // of LeakyRelu
};

cudaError_t bn_act(const BnActParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
