// BatchNorm and activation on the CPU, as the passes that the fused convolutions are made of (see conv_bn_act.h).
#pragma once

#include "ops/activation.h"
#include "ops/pooled_tensor.h"

namespace fastgan::ops {

// Partial statistics of every channel, (parts, C): number of values, mean, squared deviations.
struct PartialStatistics {
  int64_t parts, channels;
  std::vector<double> count, mean, square;

  PartialStatistics(int64_t parts_, int64_t channels_)
      : parts(parts_), channels(channels_), count(parts * channels), mean(count.size()), square(count.size()) {}

  // (mean, biased variance) of the whole, (C,), in `dtype`; parts are merged in their order.
  std::tuple<Tensor, Tensor> merge(const Tensor& like, ScalarType dtype) const;
};

// What turns z into y and grad_y into grad_z, per channel, as the kernels take it (see cpu/bn_act.h, cpu/bn_act_backward.h).
struct ChannelVectors {
  std::vector<double> mean, scale, beta, offset, slope_z;

  ChannelVectors(const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta);
  // Besides, offset and slope_z, from the sums over g and g * xhat, of which `share` goes to each value.
  void set_sums(const Tensor& invstd, const OptionalTensor& sum_g, const OptionalTensor& sum_g_xhat, double share);
};

struct CpuPasses {
  // A new tensor like a dense one.
  static Tensor new_like(const Tensor& t) { return pooled_like(t); }

  // (mean, variance) of every channel of z (N, C, ...): biased, (C,), float32 or float64. Zeros for an empty batch.
  static std::tuple<Tensor, Tensor> stats(const Tensor& z);

  // (mean, 1 / sqrt(var + eps)) of every channel of z.
  static std::tuple<Tensor, Tensor> mean_invstd(const Tensor& z, double eps);

  // 1 / sqrt(var + eps), in `dtype`.
  static Tensor inverse_std(const Tensor& var, double eps, ScalarType dtype);

  // A BatchNorm's buffers after a batch of `count` values a channel: (1 - momentum) * running + momentum * (mean, unbiased
  // variance), the variance from invstd.
  static void update_running_stats_(Tensor running_mean, Tensor running_var, const Tensor& mean, const Tensor& invstd,
                                    int64_t count, double momentum, double eps);

  // y = act(gamma * (z - mean) * invstd + beta); y has z's shape and strides, and may be z.
  static void normalize(const Tensor& z, const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                        const OptionalTensor& beta, Activation activation, double negative_slope, Tensor& y);

  // y = act(y)
  static void activate_(Tensor& y, Activation activation, double negative_slope);

  // (sum g, sum g * xhat) over everything but the channel.
  static std::tuple<Tensor, Tensor> backward_reduce(const Tensor& grad_y, const Tensor& y, const Tensor& z,
                                                    const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                                                    const OptionalTensor& beta, Activation activation,
                                                    double negative_slope);

  // grad_z = gamma * invstd * (g - share * sum_g - xhat * share * sum_g_xhat)
  static Tensor backward_elemt(const Tensor& grad_y, const Tensor& y, const Tensor& z, const Tensor& mean,
                               const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta,
                               const OptionalTensor& sum_g, const OptionalTensor& sum_g_xhat, double share,
                               Activation activation, double negative_slope);

  // grad * act' from the activation's output y; y's strides.
  static Tensor activation_backward(const Tensor& grad, const Tensor& y, Activation activation, double negative_slope);
};

}  // namespace fastgan::ops
