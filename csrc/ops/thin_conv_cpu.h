// Convolutions between an image of 1 to 4 channels and one of many, on the CPU (cpu/thin_conv.h): the RGB ends of a
// GAN.
#pragma once

#include "ops/activation.h"
#include "ops/stable.h"

namespace fastgan::ops {

// For what the plan gives to it (cpu/conv_plan.h): 1 to 4 channels on the large side; float32, bfloat16 or float16.
struct ThinConv {
  // y = act(conv(x) + bias) with the strides of ATen's convolution.
  static Tensor forward(bool transposed, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                        Activation activation, double negative_slope);

  // (grad_x, grad_weight, grad_bias) from the gradient of y = act(conv(x) + bias) and y itself; grad_x with the strides of
  // ATen's convolution_backward, grad_weight in the weight's memory format; undefined where not asked for.
  static std::array<Tensor, 3> backward(bool transposed, const Tensor& grad_y, const Tensor& y, const Tensor& x,
                                        const Tensor& weight, Activation activation, double negative_slope, bool need_x,
                                        bool need_weight, bool need_bias);
};

}  // namespace fastgan::ops
