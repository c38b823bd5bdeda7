// Convolutions of kernel 3, 4 and 5 and their transposes by Winograd on the CPU (cpu/winograd.h).
#pragma once

#include "cpu/winograd.h"
#include "ops/activation.h"
#include "ops/bn_act_cpu.h"
#include "ops/conv_arguments.h"

namespace fastgan::ops {

// BatchNorm with given statistics, and the activation: act((z - mean) * scale + beta), one value a channel. With the last two
// vectors, the gradient of z from that of y: scale * grad_y * act' - offset - slope_z * (z - mean).
struct Normalization {
  std::vector<float> mean, scale, beta, offset, slope_z;
  Activation activation;
  double negative_slope;

  Normalization(const ChannelVectors& v, Activation activation_, double negative_slope_);
  // The activation alone, for C channels.
  Normalization(int64_t channels, Activation activation_, double negative_slope_);
};

class Winograd {
 public:
  // For what plan() gives to Winograd (conv_plan.h).
  Winograd(const ConvArguments& conv, const Tensor& x, const Tensor& weight);

  // z = conv(x) + bias, normalised and activated where asked. Statistics, where asked, are z's.
  Tensor forward(const OptionalTensor& bias, const Normalization* norm, PartialStatistics* statistics) const;

  // (grad_x, grad_weight), undefined where not asked for. The gradient of z is `grad`; or, where a normalisation is given, what
  // that makes of the gradient `grad` of y, with z or, without BatchNorm, y itself.
  std::array<Tensor, 2> backward(const Tensor& grad, const OptionalTensor& z, const Normalization* norm, bool need_x,
                                 bool need_weight) const;

 private:
  cpu::WinogradWeight weight_view() const { return {weight_.const_data_ptr(), weight_channels_last_}; }
  Tensor new_side(bool large) const;

  bool up_;             // forward goes from the small side to the large one
  bool channels_last_;  // of what aten::convolution would return
  Tensor x_, weight_;   // x channels-last, weight dense
  bool weight_channels_last_;
  cpu::WinogradShape shape_;
};

}  // namespace fastgan::ops
