// conv2d_bn_act and conv_transpose2d_bn_act with their backward ops, for any device. A device registers them with
//     struct CudaConvolution : ComposedConvolution<CudaPasses, CudaConvolution> {};
//     STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) { register_conv_bn_act<CudaConvolution>(m); }
// where Passes has the static functions of CpuPasses in bn_act_cpu.h. ComposedConvolution is ATen's convolution and these
// passes around it; a device with convolutions of its own redefines what they do better.
//
// Composed, forward, per element of z: written by the convolution; read for the statistics; read and written to normalise and
// activate, in place of z unless z is kept. Backward: grad_y and z are read by a reduction, read again to write grad_z.
#pragma once

#include "ops/activation.h"
#include "ops/conv_arguments.h"

namespace fastgan::ops {

struct NormArguments {
  bool norm, training;
  double eps;
  Activation activation;
  double negative_slope;
};

struct Needs {
  bool x, weight, bias;
  bool any() const { return x || weight || bias; }
};

// BatchNorm with its statistics, and the activation behind it: what z needs to become y.
struct NormalizeArguments {
  const Tensor& mean;
  const Tensor& invstd;
  const OptionalTensor& gamma;
  const OptionalTensor& beta;
  Activation activation;
  double negative_slope;
};

// The same by the statistics of the batch, which are still to be found.
struct BatchNormArguments {
  double eps;
  const OptionalTensor& gamma;
  const OptionalTensor& beta;
  Activation activation;
  double negative_slope;
  bool keep_z;
};

// (y, z or nothing, mean, 1 / sqrt(biased variance + eps))
using Normalized = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The sums that batch statistics add to the gradient of z; `share` is 1 / (values a channel), or 0 for given statistics.
struct GradientSums {
  OptionalTensor sum_g, sum_g_xhat;
  double share;
};

template <class Passes, class Device>
struct ComposedConvolution : Passes {
  using Gradients = std::array<Tensor, 3>;  // of x, weight and bias; undefined where not asked for

  static Tensor convolve(const ConvArguments& conv, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
    return conv.convolve(x, weight, bias);
  }

  static Gradients convolve_backward(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x, const Tensor& weight,
                                     const Needs& needs) {
    return conv.backward(grad_z, x, weight, needs.x, needs.weight, needs.bias);
  }

  // act(z)
  static Tensor convolve_activate(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                  const OptionalTensor& bias, Activation activation, double negative_slope) {
    Tensor z = conv.convolve(x, weight, bias);
    Passes::activate_(z, activation, negative_slope);
    return z;
  }

  static Gradients convolve_activate_backward(const ConvArguments& conv, const Tensor& grad_y, const Tensor& y,
                                              Activation activation, double negative_slope, const Tensor& x,
                                              const Tensor& weight, const Needs& needs) {
    const Tensor grad_z = Passes::activation_backward(grad_y, y, activation, negative_slope);
    return Device::convolve_backward(conv, grad_z, x, weight, needs);
  }

  // By the statistics of the batch.
  static Normalized convolve_batch_norm(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                        const OptionalTensor& bias, const BatchNormArguments& n) {
    const Tensor z = conv.convolve(x, weight, bias);
    const auto [mean, invstd] = Passes::mean_invstd(z, n.eps);
    return normalized(z, mean, invstd, n);
  }

  // y from z, in its place unless it is kept.
  static Normalized normalized(const Tensor& z, const Tensor& mean, const Tensor& invstd, const BatchNormArguments& n) {
    Tensor y = n.keep_z ? Passes::new_like(z) : z;
    Passes::normalize(z, mean, invstd, n.gamma, n.beta, n.activation, n.negative_slope, y);
    return {y, n.keep_z ? z : nothing(z), mean, invstd};
  }

  // y alone, z being needed no more
  static Tensor convolve_normalize(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, const NormalizeArguments& n) {
    Tensor z = conv.convolve(x, weight, bias);
    Passes::normalize(z, n.mean, n.invstd, n.gamma, n.beta, n.activation, n.negative_slope, z);
    return z;
  }

  static Gradients convolve_normalize_backward(const ConvArguments& conv, const Tensor& grad_y, const Tensor& y,
                                               const Tensor& z, const NormalizeArguments& n, const GradientSums& sums,
                                               const Tensor& x, const Tensor& weight, const Needs& needs) {
    const Tensor grad_z = Passes::backward_elemt(grad_y, y, z, n.mean, n.invstd, n.gamma, n.beta, sums.sum_g,
                                                 sums.sum_g_xhat, sums.share, n.activation, n.negative_slope);
    return Device::convolve_backward(conv, grad_z, x, weight, needs);
  }
};

template <class Device>
struct ConvBnAct {
  using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
  using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  using Ints = std::vector<int64_t>;

  static Four forward(const ConvArguments& conv, const NormArguments& n, const Tensor& x, const Tensor& weight,
                      const OptionalTensor& bias, const OptionalTensor& gamma, const OptionalTensor& beta,
                      const OptionalTensor& running_mean, const OptionalTensor& running_var, bool keep_z) {
    const std::vector<int64_t> shape = conv.check_tensors(x, weight, bias);
    const int64_t channels = shape[1];
    conv.check_channels("gamma", gamma, channels);
    conv.check_channels("beta", beta, channels);
    conv.check_channels("running_mean", running_mean, channels);
    conv.check_channels("running_var", running_var, channels);
    check(!n.norm || n.training || (running_mean.has_value() && running_var.has_value()), conv.op,
          ": norm=True with training=False takes running_mean and running_var");

    const ScalarType dtype = statistics_dtype(x);
    if (!n.norm) {
      const Tensor y = n.activation == Activation::None
                           ? Device::convolve(conv, x, weight, bias)
                           : Device::convolve_activate(conv, x, weight, bias, n.activation, n.negative_slope);
      return {y, nothing(x), empty(x, {0}, dtype), empty(x, {0}, dtype)};
    }
    const BatchNormArguments batch_norm{n.eps, gamma, beta, n.activation, n.negative_slope, keep_z};
    if (n.training) {
      check(shape[0] * shape[2] * shape[3] != 1, conv.op, ": the convolution gives one value a channel, shape (1, ",
            channels, ", 1, 1); batch statistics take more than one");
      return Device::convolve_batch_norm(conv, x, weight, bias, batch_norm);
    }
    const Tensor mean = torch::stable::to(*running_mean, dtype, std::nullopt, std::nullopt, std::nullopt, false, /*copy=*/true);
    const Tensor invstd = Device::inverse_std(*running_var, n.eps, dtype);
    if (keep_z) return Device::normalized(Device::convolve(conv, x, weight, bias), mean, invstd, batch_norm);
    const NormalizeArguments given{mean, invstd, gamma, beta, n.activation, n.negative_slope};
    return {Device::convolve_normalize(conv, x, weight, bias, given), nothing(x), mean, invstd};
  }

  static Five backward(const ConvArguments& conv, const NormArguments& n, const Tensor& grad_y, const Tensor& x,
                       const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& gamma,
                       const OptionalTensor& beta, const Tensor& y, const Tensor& z, const Tensor& mean,
                       const Tensor& invstd, bool need_x, bool need_weight, bool need_bias, bool need_affine) {
    const std::vector<int64_t> shape = conv.check_tensors(x, weight, bias);
    conv.check_shape("grad_y", grad_y, x, shape);
    if (n.norm) conv.check_shape("z", z, x, shape);
    const bool lone = !n.norm && n.activation == Activation::None;  // nothing but the convolution: y is not read
    if (n.activation == Activation::Tanh || !(n.norm || lone)) conv.check_shape("y", y, x, shape);
    const int64_t channels = shape[1];
    const bool batch_statistics = n.norm && n.training;
    // A bias ahead of batch statistics cannot change the output: its gradient is exactly zero.
    const Needs needs{need_x, need_weight, need_bias && !batch_statistics};
    Tensor grad_gamma = nothing(x), grad_beta = nothing(x);
    std::array<Tensor, 3> gradients;
    if (lone) {
      if (needs.any()) gradients = Device::convolve_backward(conv, grad_y, x, weight, needs);
    } else if (!n.norm) {
      if (needs.any()) {
        gradients = Device::convolve_activate_backward(conv, grad_y, y, n.activation, n.negative_slope, x, weight, needs);
      }
    } else {
      GradientSums sums{};
      if (batch_statistics || need_affine) {
        auto [g, g_xhat] = Device::backward_reduce(grad_y, y, z, mean, invstd, gamma, beta, n.activation, n.negative_slope);
        if (need_affine) {
          grad_gamma = torch::stable::to(g_xhat, gamma.has_value() ? gamma->scalar_type() : g_xhat.scalar_type());
          grad_beta = torch::stable::to(g, beta.has_value() ? beta->scalar_type() : g.scalar_type());
        }
        sums.sum_g = g;
        sums.sum_g_xhat = g_xhat;
      }
      if (needs.any()) {
        const int64_t count = channels > 0 ? z.numel() / channels : 0;
        sums.share = batch_statistics && count > 0 ? 1.0 / double(count) : 0.0;
        const NormalizeArguments normalization{mean, invstd, gamma, beta, n.activation, n.negative_slope};
        gradients = Device::convolve_normalize_backward(conv, grad_y, y, z, normalization, sums, x, weight, needs);
      }
    }
    Tensor grad_x = need_x ? gradients[0] : nothing(x);
    Tensor grad_weight = need_weight ? gradients[1] : nothing(x);
    Tensor grad_bias = needs.bias ? gradients[2] : nothing(x);
    if (need_bias && batch_statistics) {
      grad_bias = empty(x, {channels}, x.scalar_type());
      torch::stable::zero_(grad_bias);
    }
    return {grad_x, grad_weight, grad_bias, grad_gamma, grad_beta};
  }

  // ---- the ops, in the order of their schemas -------------------------------------------------------------------

  static Four conv2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& gamma,
                     const OptionalTensor& beta, const OptionalTensor& running_mean, const OptionalTensor& running_var,
                     Ints stride, Ints padding, Ints dilation, int64_t groups, bool norm, bool training, bool keep_z,
                     double eps, std::string activation, double negative_slope, bool tf32) {
    const char* op = "conv2d_bn_act";
    return forward({op, false, stride, padding, {0, 0}, dilation, groups, tf32},
                   {norm, training, eps, parse_activation(op, activation), negative_slope}, x, weight, bias, gamma, beta,
                   running_mean, running_var, keep_z);
  }

  static Four conv_transpose2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                               const OptionalTensor& gamma, const OptionalTensor& beta,
                               const OptionalTensor& running_mean, const OptionalTensor& running_var, Ints stride,
                               Ints padding, Ints output_padding, Ints dilation, int64_t groups, bool norm, bool training,
                               bool keep_z, double eps, std::string activation, double negative_slope, bool tf32) {
    const char* op = "conv_transpose2d_bn_act";
    return forward({op, true, stride, padding, output_padding, dilation, groups, tf32},
                   {norm, training, eps, parse_activation(op, activation), negative_slope}, x, weight, bias, gamma, beta,
                   running_mean, running_var, keep_z);
  }

  static Five conv2d_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                              const OptionalTensor& gamma, const OptionalTensor& beta, const Tensor& y, const Tensor& z,
                              const Tensor& mean, const Tensor& invstd, Ints stride, Ints padding, Ints dilation,
                              int64_t groups, bool norm, bool training, std::string activation, double negative_slope,
                              bool need_x, bool need_weight, bool need_bias, bool need_affine, double eps, bool tf32) {
    const char* op = "conv2d_bn_act_backward";
    return backward({op, false, stride, padding, {0, 0}, dilation, groups, tf32},
                    {norm, training, eps, parse_activation(op, activation), negative_slope}, grad_y, x, weight, bias,
                    gamma, beta, y, z, mean, invstd, need_x, need_weight, need_bias, need_affine);
  }

  static Five conv_transpose2d_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                        const OptionalTensor& bias, const OptionalTensor& gamma,
                                        const OptionalTensor& beta, const Tensor& y, const Tensor& z, const Tensor& mean,
                                        const Tensor& invstd, Ints stride, Ints padding, Ints output_padding,
                                        Ints dilation, int64_t groups, bool norm, bool training, std::string activation,
                                        double negative_slope, bool need_x, bool need_weight, bool need_bias,
                                        bool need_affine, double eps, bool tf32) {
    const char* op = "conv_transpose2d_bn_act_backward";
    return backward({op, true, stride, padding, output_padding, dilation, groups, tf32},
                    {norm, training, eps, parse_activation(op, activation), negative_slope}, grad_y, x, weight, bias,
                    gamma, beta, y, z, mean, invstd, need_x, need_weight, need_bias, need_affine);
  }
};

// convolution and convolution_backward: aten's, by the device's implementation, on what is known to be well-formed.
template <class Device>
struct PlainConvolution {
  using Ints = std::vector<int64_t>;

  static Tensor forward(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Ints stride, Ints padding,
                        Ints dilation, bool transposed, Ints output_padding, int64_t groups, bool tf32) {
    const ConvArguments conv{"convolution", transposed, stride, padding, output_padding, dilation, groups, tf32};
    conv.check_tensors(x, weight, bias);
    return Device::convolve(conv, x, weight, bias);
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& weight, Ints stride,
                                                     Ints padding, Ints dilation, bool transposed, Ints output_padding,
                                                     int64_t groups, bool need_x, bool need_weight, bool need_bias,
                                                     bool tf32) {
    const ConvArguments conv{"convolution_backward", transposed, stride, padding, output_padding, dilation, groups, tf32};
    conv.check_shape("grad", grad, x, conv.check_tensors(x, weight, std::nullopt));
    const auto [grad_x, grad_weight, grad_bias] =
        Device::convolve_backward(conv, grad, x, weight, {need_x, need_weight, need_bias});
    return {need_x ? grad_x : nothing(x), need_weight ? grad_weight : nothing(x), need_bias ? grad_bias : nothing(x)};
  }
};

template <class Device>
void register_conv_bn_act(torch::stable::detail::StableLibrary& m) {
  using Ops = ConvBnAct<Device>;
  m.impl("convolution", TORCH_BOX(&PlainConvolution<Device>::forward));
  m.impl("convolution_backward", TORCH_BOX(&PlainConvolution<Device>::backward));
  m.impl("conv2d_bn_act", TORCH_BOX(&Ops::conv2d));
  m.impl("conv_transpose2d_bn_act", TORCH_BOX(&Ops::conv_transpose2d));
  m.impl("conv2d_bn_act_backward", TORCH_BOX(&Ops::conv2d_backward));
  m.impl("conv_transpose2d_bn_act_backward", TORCH_BOX(&Ops::conv_transpose2d_backward));
}

}  // namespace fastgan::ops
