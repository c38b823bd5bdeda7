// The fused convolutions on the CPU: each product by the implementation that the plan chooses, the passes around ATen's.
#include "ops/conv_bn_act.h"

#include "cpu/conv_plan.h"
#include "ops/bn_act_cpu.h"
#include "ops/layout_cpu.h"
#include "ops/matmul_conv.h"
#include "ops/tensor_cpu.h"
#include "ops/thin_conv_cpu.h"
#include "ops/winograd_cpu.h"

namespace fastgan::ops {
namespace {

using cpu::ConvKernel;
using cpu::ConvProduct;
using Matmul = MatmulConv<in_format_cpu>;

cpu::DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return cpu::DType::Float32;
    case ScalarType::BFloat16: return cpu::DType::BFloat16;
    case ScalarType::Half: return cpu::DType::Float16;
    default: return cpu::DType::Float64;
  }
}

ConvKernel plan(const ConvArguments& conv, const Tensor& x, const Tensor& weight, ConvProduct product) {
  cpu::ConvShape shape{dtype_of(x), conv.transposed, x.size(0), x.size(1), x.size(2), x.size(3), {}, {}, {}, {}, {},
                       conv.groups};
  for (int64_t d = 0; d < 4; d++) shape.weight[d] = weight.size(d);
  for (int64_t d = 0; d < 2; d++) {
    shape.stride[d] = conv.stride[d];
    shape.padding[d] = conv.padding[d];
    shape.output_padding[d] = conv.output_padding[d];
    shape.dilation[d] = conv.dilation[d];
  }
  return cpu::plan(shape, product, torch::stable::get_num_threads());
}

// The sum over each channel of grad_y * act'(y).
Tensor bias_gradient(const Tensor& grad_y, const Tensor& y, Activation activation, double negative_slope) {
  const ScalarType dtype = statistics_dtype(y);
  const Tensor zeros = vector_tensor(y, std::vector<double>(y.size(1), 0.0), dtype);
  const Tensor ones = vector_tensor(y, std::vector<double>(y.size(1), 1.0), dtype);
  const auto [sum_g, unused] =
      CpuPasses::backward_reduce(grad_y, y, y, zeros, ones, std::nullopt, std::nullopt, activation, negative_slope);
  return torch::stable::to(sum_g, y.scalar_type());
}

Tensor plus_bias(Tensor z, const OptionalTensor& bias) {
  if (!bias.has_value()) return z;
  const ScalarType dtype = statistics_dtype(z);
  const Tensor zeros = vector_tensor(z, std::vector<double>(z.size(1), 0.0), dtype);
  const Tensor ones = vector_tensor(z, std::vector<double>(z.size(1), 1.0), dtype);
  CpuPasses::normalize(z, zeros, ones, std::nullopt, bias, Activation::None, 0.0, z);
  return z;
}

// The implementations of the gradients of one call.
struct BackwardPlan {
  ConvKernel x, weight;

  BackwardPlan(const ConvArguments& conv, const Tensor& x_of, const Tensor& weight_of, const Needs& needs) {
    x = plan(conv, x_of, weight_of, ConvProduct::InputGradient);
    weight = plan(conv, x_of, weight_of, ConvProduct::WeightGradient);
    if (!needs.x) x = weight;
    if (!needs.weight) weight = x;
  }
  bool all(ConvKernel kernel) const { return x == kernel && weight == kernel; }
  // Those of the needs that fall to `kernel`; the bias goes with the weight.
  Needs of(ConvKernel kernel, const Needs& needs) const {
    return {needs.x && x == kernel, needs.weight && weight == kernel, needs.bias && weight == kernel};
  }
};

struct CpuConvolution : ComposedConvolution<CpuPasses, CpuConvolution> {
  using Composed = ComposedConvolution<CpuPasses, CpuConvolution>;

  static Tensor convolve(const ConvArguments& conv, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
    switch (plan(conv, x, weight, ConvProduct::Output)) {
      case ConvKernel::Winograd: return Winograd(conv, x, weight).forward(bias, nullptr, nullptr);
      case ConvKernel::Thin: return ThinConv::forward(conv.transposed, x, weight, bias, Activation::None, 0.0);
      case ConvKernel::Matmul: return plus_bias(Matmul::forward(conv, x, weight), bias);
      case ConvKernel::Aten: break;
    }
    return Composed::convolve(conv, x, weight, bias);
  }

  static Tensor convolve_activate(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                  const OptionalTensor& bias, Activation activation, double negative_slope) {
    const ConvKernel kernel = plan(conv, x, weight, ConvProduct::Output);
    if (kernel == ConvKernel::Thin) {
      return ThinConv::forward(conv.transposed, x, weight, bias, activation, negative_slope);
    }
    if (kernel == ConvKernel::Winograd && activation != Activation::Tanh) {
      const Normalization norm(conv.out_channels(weight), activation, negative_slope);
      return Winograd(conv, x, weight).forward(bias, &norm, nullptr);
    }
    Tensor z = convolve(conv, x, weight, bias);
    activate_(z, activation, negative_slope);
    return z;
  }

  static Normalized convolve_batch_norm(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                        const OptionalTensor& bias, const BatchNormArguments& n) {
    if (plan(conv, x, weight, ConvProduct::Output) != ConvKernel::Winograd) {
      const Tensor z = convolve(conv, x, weight, bias);
      const auto [mean, invstd] = mean_invstd(z, n.eps);
      return normalized(z, mean, invstd, n);
    }
    PartialStatistics partial(0, 0);
    const Tensor z = Winograd(conv, x, weight).forward(bias, nullptr, &partial);
    const auto [mean, var] = partial.merge(z, statistics_dtype(z));
    return normalized(z, mean, inverse_std(var, n.eps, statistics_dtype(z)), n);
  }

  static Tensor convolve_normalize(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, const NormalizeArguments& n) {
    if (plan(conv, x, weight, ConvProduct::Output) == ConvKernel::Winograd && n.activation != Activation::Tanh) {
      const Normalization norm(ChannelVectors(n.mean, n.invstd, n.gamma, n.beta), n.activation, n.negative_slope);
      return Winograd(conv, x, weight).forward(bias, &norm, nullptr);
    }
    Tensor z = convolve(conv, x, weight, bias);
    normalize(z, n.mean, n.invstd, n.gamma, n.beta, n.activation, n.negative_slope, z);
    return z;
  }

  static Gradients convolve_backward(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x, const Tensor& weight,
                                     const Needs& needs) {
    const BackwardPlan by(conv, x, weight, needs);
    const Needs aten = by.of(ConvKernel::Aten, needs), winograd = by.of(ConvKernel::Winograd, needs);
    const Needs matmul = by.of(ConvKernel::Matmul, needs), thin = by.of(ConvKernel::Thin, needs);
    Gradients gradients = aten.any() ? Composed::convolve_backward(conv, grad_z, x, weight, aten) : Gradients();
    if (thin.any()) {
      const auto [grad_x, grad_weight, grad_bias] = ThinConv::backward(
          conv.transposed, grad_z, grad_z, x, weight, Activation::None, 0.0, thin.x, thin.weight, thin.bias);
      set(gradients, {grad_x, grad_weight}, thin);
      if (thin.bias) gradients[2] = grad_bias;
    }
    if (winograd.x || winograd.weight) {
      set(gradients, Winograd(conv, x, weight).backward(grad_z, std::nullopt, nullptr, winograd.x, winograd.weight),
          winograd);
    }
    if (matmul.x) gradients[0] = Matmul::grad_x(conv, grad_z, x, weight);
    if (matmul.weight) gradients[1] = Matmul::grad_weight(conv, grad_z, x, weight);
    if (needs.bias && !aten.bias && !thin.bias) gradients[2] = bias_gradient(grad_z, grad_z, Activation::None, 0.0);
    return gradients;
  }

  static Gradients convolve_activate_backward(const ConvArguments& conv, const Tensor& grad_y, const Tensor& y,
                                              Activation activation, double negative_slope, const Tensor& x,
                                              const Tensor& weight, const Needs& needs) {
    const BackwardPlan by(conv, x, weight, needs);
    if (by.all(ConvKernel::Thin)) {
      return ThinConv::backward(conv.transposed, grad_y, y, x, weight, activation, negative_slope, needs.x, needs.weight,
                                needs.bias);
    }
    if (!by.all(ConvKernel::Winograd) || activation == Activation::Tanh) {
      return convolve_backward(conv, activation_backward(grad_y, y, activation, negative_slope), x, weight, needs);
    }
    Gradients gradients;
    if (needs.x || needs.weight) {
      const Normalization norm(conv.out_channels(weight), activation, negative_slope);
      // y has the sign of z and stands in for it
      set(gradients, Winograd(conv, x, weight).backward(grad_y, y, &norm, needs.x, needs.weight), needs);
    }
    if (needs.bias) gradients[2] = bias_gradient(grad_y, y, activation, negative_slope);
    return gradients;
  }

  static Gradients convolve_normalize_backward(const ConvArguments& conv, const Tensor& grad_y, const Tensor& y,
                                               const Tensor& z, const NormalizeArguments& n, const GradientSums& sums,
                                               const Tensor& x, const Tensor& weight, const Needs& needs) {
    const bool winograd = BackwardPlan(conv, x, weight, needs).all(ConvKernel::Winograd);
    if (!winograd || n.activation == Activation::Tanh || needs.bias) {
      const Tensor grad_z = backward_elemt(grad_y, y, z, n.mean, n.invstd, n.gamma, n.beta, sums.sum_g, sums.sum_g_xhat,
                                           sums.share, n.activation, n.negative_slope);
      return convolve_backward(conv, grad_z, x, weight, needs);
    }
    ChannelVectors vectors(n.mean, n.invstd, n.gamma, n.beta);
    vectors.set_sums(n.invstd, sums.sum_g, sums.sum_g_xhat, sums.share);
    const Normalization norm(vectors, n.activation, n.negative_slope);
    Gradients gradients;
    set(gradients, Winograd(conv, x, weight).backward(grad_y, z, &norm, needs.x, needs.weight), needs);
    return gradients;
  }

 private:
  static void set(Gradients& gradients, const std::array<Tensor, 2>& found, const Needs& needs) {
    if (needs.x) gradients[0] = found[0];
    if (needs.weight) gradients[1] = found[1];
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) { register_conv_bn_act<CpuConvolution>(m); }

}  // namespace fastgan::ops
