// The fused convolutions on the CPU: by Winograd where the plan says so, else composed of ATen's and the passes.
#include "ops/conv_bn_act.h"

#include "ops/bn_act_cpu.h"
#include "ops/tensor_cpu.h"
#include "ops/winograd_cpu.h"

namespace fastgan::ops {
namespace {

struct CpuConvolution : ComposedConvolution<CpuPasses> {
  using Composed = ComposedConvolution<CpuPasses>;

  static Tensor convolve(const ConvArguments& conv, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
    if (!Winograd::covers(conv, x, weight)) return Composed::convolve(conv, x, weight, bias);
    return Winograd(conv, x, weight).forward(bias, nullptr, nullptr);
  }

  static Gradients convolve_backward(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x, const Tensor& weight,
                                     const Needs& needs) {
    if (!Winograd::covers(conv, x, weight)) return Composed::convolve_backward(conv, grad_z, x, weight, needs);
    Gradients gradients;
    if (needs.x || needs.weight) {
      const auto [grad_x, grad_weight] =
          Winograd(conv, x, weight).backward(grad_z, std::nullopt, nullptr, needs.x, needs.weight);
      gradients = {grad_x, grad_weight, Tensor()};
    }
    if (needs.bias) gradients[2] = bias_gradient(grad_z, grad_z, Activation::None, 0.0);
    return gradients;
  }

  static Tensor convolve_activate(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                  const OptionalTensor& bias, Activation activation, double negative_slope) {
    if (!Winograd::covers(conv, x, weight) || activation == Activation::Tanh) {
      Tensor z = convolve(conv, x, weight, bias);
      activate_(z, activation, negative_slope);
      return z;
    }
    const Normalization norm(conv.out_channels(weight), activation, negative_slope);
    return Winograd(conv, x, weight).forward(bias, &norm, nullptr);
  }

  static Gradients convolve_activate_backward(const ConvArguments& conv, const Tensor& grad_y, const Tensor& y,
                                              Activation activation, double negative_slope, const Tensor& x,
                                              const Tensor& weight, const Needs& needs) {
    if (!Winograd::covers(conv, x, weight) || activation == Activation::Tanh) {
      return convolve_backward(conv, activation_backward(grad_y, y, activation, negative_slope), x, weight, needs);
    }
    Gradients gradients;
    if (needs.x || needs.weight) {
      // the sign of y is that of z: y stands in for it
      const Normalization norm(conv.out_channels(weight), activation, negative_slope);
      const auto [grad_x, grad_weight] = Winograd(conv, x, weight).backward(grad_y, y, &norm, needs.x, needs.weight);
      gradients = {grad_x, grad_weight, Tensor()};
    }
    if (needs.bias) gradients[2] = bias_gradient(grad_y, y, activation, negative_slope);
    return gradients;
  }

  static std::tuple<Tensor, Tensor, Tensor> convolve_stats(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                                           const OptionalTensor& bias) {
    if (!Winograd::covers(conv, x, weight)) return Composed::convolve_stats(conv, x, weight, bias);
    PartialStatistics partial(0, 0);
    const Tensor z = Winograd(conv, x, weight).forward(bias, nullptr, &partial);
    const auto [mean, var] = partial.merge(z, statistics_dtype(z));
    return {z, mean, var};
  }

  static Tensor convolve_normalize(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, const NormalizeArguments& n) {
    if (!Winograd::covers(conv, x, weight) || n.activation == Activation::Tanh) {
      Tensor z = convolve(conv, x, weight, bias);
      normalize(z, n.mean, n.invstd, n.gamma, n.beta, n.activation, n.negative_slope, z);
      return z;
    }
    const Normalization norm(ChannelVectors(n.mean, n.invstd, n.gamma, n.beta), n.activation, n.negative_slope);
    return Winograd(conv, x, weight).forward(bias, &norm, nullptr);
  }

  static Gradients convolve_normalize_backward(const ConvArguments& conv, const Tensor& grad_y, const Tensor& y,
                                               const Tensor& z, const NormalizeArguments& n, const GradientSums& sums,
                                               const Tensor& x, const Tensor& weight, const Needs& needs) {
    if (!Winograd::covers(conv, x, weight) || n.activation == Activation::Tanh || needs.bias) {
      const Tensor grad_z = backward_elemt(grad_y, y, z, n.mean, n.invstd, n.gamma, n.beta, sums.sum_g, sums.sum_g_xhat,
                                           sums.share, n.activation, n.negative_slope);
      return convolve_backward(conv, grad_z, x, weight, needs);
    }
    ChannelVectors vectors(n.mean, n.invstd, n.gamma, n.beta);
    vectors.set_sums(n.invstd, sums.sum_g, sums.sum_g_xhat, sums.share);
    const Normalization norm(vectors, n.activation, n.negative_slope);
    const auto [grad_x, grad_weight] = Winograd(conv, x, weight).backward(grad_y, z, &norm, needs.x, needs.weight);
    return {grad_x, grad_weight, Tensor()};
  }

 private:
  // The sum over each channel of grad_y * act'(y).
  static Tensor bias_gradient(const Tensor& grad_y, const Tensor& y, Activation activation, double negative_slope) {
    const std::vector<double> zeros(y.size(1), 0.0), ones(y.size(1), 1.0);
    const Tensor mean = vector_tensor(y, zeros, statistics_dtype(y)), invstd = vector_tensor(y, ones, statistics_dtype(y));
    const auto [sum_g, unused] =
        backward_reduce(grad_y, y, y, mean, invstd, std::nullopt, std::nullopt, activation, negative_slope);
    return torch::stable::to(sum_g, y.scalar_type());
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) { register_conv_bn_act<CpuConvolution>(m); }

}  // namespace fastgan::ops
