// BatchNorm and activation on CUDA devices, as the passes that the fused convolutions are made of (see conv_bn_act.h; the
// functions mean what those of CpuPasses in bn_act_cpu.h mean). No pass synchronises with the host.
#pragma once

#include "ops/activation.h"
#include "ops/stable.h"

namespace fastgan::ops {

struct CudaPasses {
  static Tensor new_like(const Tensor& t) { return ops::new_like(t); }
  static std::tuple<Tensor, Tensor> stats(const Tensor& z);
  static std::tuple<Tensor, Tensor> mean_invstd(const Tensor& z, double eps);
  static Tensor inverse_std(const Tensor& var, double eps, ScalarType dtype);
  static void update_running_stats_(Tensor running_mean, Tensor running_var, const Tensor& mean, const Tensor& invstd,
                                    int64_t count, double momentum, double eps);
  static void normalize(const Tensor& z, const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                        const OptionalTensor& beta, Activation activation, double negative_slope, Tensor& y);
  // y <- act(y + bias), y dense
  static void activate_(Tensor& y, const OptionalTensor& bias, Activation activation, double negative_slope);
  static std::tuple<Tensor, Tensor> backward_reduce(const Tensor& grad_y, const Tensor& y, const Tensor& z,
                                                    const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                                                    const OptionalTensor& beta, Activation activation,
                                                    double negative_slope);
  static Tensor backward_elemt(const Tensor& grad_y, const Tensor& y, const Tensor& z, const Tensor& mean,
                               const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta,
                               const OptionalTensor& sum_g, const OptionalTensor& sum_g_xhat, double share,
                               Activation activation, double negative_slope);
  static Tensor activation_backward(const Tensor& grad, const Tensor& y, Activation activation, double negative_slope);
};

}  // namespace fastgan::ops
