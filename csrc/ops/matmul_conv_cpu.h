// Convolutions that are one matrix product: from 1x1 to the size of the kernel, and from there to 1x1. The ends of DCGAN.
#pragma once

#include "ops/conv_arguments.h"

namespace fastgan::ops {

// For what the plan gives to it (cpu/conv_plan.h). With M the flattened sizes (C, kh, kw) of the larger side, in the weight's
// memory order: transposed y (N, M) = x (N, C_in) w (C_in, M); otherwise y (N, C_out) = x (N, M) w (C_out, M)^T. By ATen's
// matrix product.
struct MatmulConv {
  // Without a bias.
  static Tensor forward(const ConvArguments& conv, const Tensor& x, const Tensor& weight);

  // (grad_x, grad_weight), undefined where not asked for.
  static std::array<Tensor, 2> backward(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x,
                                        const Tensor& weight, bool need_x, bool need_weight);
};

}  // namespace fastgan::ops
