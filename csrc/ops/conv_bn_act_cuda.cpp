// The fused convolutions on CUDA devices: ATen's convolution (cuDNN) and this project's passes around it.
#include "ops/bn_act_cuda.h"
#include "ops/conv_bn_act.h"

namespace fastgan::ops {

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) { register_conv_bn_act<ComposedConvolution<CudaPasses>>(m); }

}  // namespace fastgan::ops
