// conv2d_bn_act and conv_transpose2d_bn_act with their backward ops, for any device: ATen's convolution and the passes of
// that device around it. A device registers them with
//     STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) { register_conv_bn_act<CpuPasses>(m); }
// where Passes has the static functions of CpuPasses in bn_act_cpu.h.
//
// Forward, per element of z: written by the convolution; read for the statistics; read and written to normalise and
// activate, in place of z unless z is kept. Backward: grad_y and z are read by a reduction, read again to write grad_z.
#pragma once

#include <algorithm>

#include "ops/activation.h"
#include "ops/stable.h"

namespace fastgan::ops {

struct ConvArguments {
  const char* op;
  bool transposed;
  std::vector<int64_t> stride, padding, output_padding, dilation;
  int64_t groups;

  int64_t out_channels(const Tensor& weight) const { return transposed ? weight.size(1) * groups : weight.size(0); }

  Tensor convolve(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) const {
    return call("aten::convolution", "", x, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
  }

  // (grad_x, grad_weight, grad_bias), undefined where not asked for.
  std::array<Tensor, 3> backward(const Tensor& grad_z, const Tensor& x, const Tensor& weight, bool need_x,
                                 bool need_weight, bool need_bias) const {
    const std::optional<std::vector<int64_t>> bias_size = std::vector<int64_t>{out_channels(weight)};
    const std::array<bool, 3> wanted{need_x, need_weight, need_bias};
    return call<3>("aten::convolution_backward", "", grad_z, x, weight, bias_size, stride, padding, dilation, transposed,
                   output_padding, groups, torch::headeronly::HeaderOnlyArrayRef<bool>(wanted.data(), wanted.size()));
  }

  // Checks all that the convolution takes; the shape of its output.
  std::vector<int64_t> check_tensors(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) const {
    check(x.dim() == 4, op, ": x has shape ", shape_of(x), "; it takes (N, C, H, W)");
    check(weight.dim() == 4, op, ": weight has shape ", shape_of(weight), "; it takes four dimensions");
    check(groups >= 1, op, ": groups is ", groups, "; it takes 1 or more");
    check(weight.scalar_type() == x.scalar_type(), op, ": weight is ", dtype_name(weight.scalar_type()), ", x is ",
          dtype_name(x.scalar_type()), "; they take one dtype");
    const int64_t in = transposed ? weight.size(0) : weight.size(1) * groups;
    check(x.size(1) == in, op, ": x has ", x.size(1), " channels; weight of shape ", shape_of(weight), " with groups ",
          groups, " takes ", in);
    check(weight.size(0) % groups == 0, op, ": weight has shape ", shape_of(weight), "; groups ", groups,
          " takes a first dimension that it divides");
    check_channels("bias", bias, out_channels(weight));
    return {x.size(0), out_channels(weight), out_size(x, weight, 0), out_size(x, weight, 1)};
  }

  // Height (d = 0) or width (d = 1) of the output. ATen finds these faults too, but its message does not survive the stable
  // ABI of every torch.
  int64_t out_size(const Tensor& x, const Tensor& weight, int64_t d) const {
    const auto two = [&](const char* argument, const std::vector<int64_t>& values, int64_t least) {
      check(values.size() == 2, op, ": ", argument, " has ", values.size(), " values; it takes two, for height and width");
      for (int64_t v : values) check(v >= least, op, ": ", argument, " is ", v, "; it takes ", least, " or more");
    };
    two("stride", stride, 1);
    two("padding", padding, 0);
    two("dilation", dilation, 1);
    two("output_padding", output_padding, 0);
    const char* side = d == 0 ? "height" : "width";
    const int64_t in = x.size(d + 2), kernel = dilation[d] * (weight.size(d + 2) - 1) + 1;
    check(in > 0 && weight.size(d + 2) > 0, op, ": x has shape ", shape_of(x), ", weight ", shape_of(weight),
          "; they take a ", side, " of 1 or more");
    if (!transposed) {
      const int64_t padded = in + 2 * padding[d];
      check(padded >= kernel, op, ": x has ", side, " ", in, ", padded ", padded, "; a kernel that spans ", kernel,
            " takes that or more");
      return (padded - kernel) / stride[d] + 1;
    }
    check(output_padding[d] < std::max(stride[d], dilation[d]), op, ": output_padding is ", output_padding[d],
          "; it takes less than stride ", stride[d], " or dilation ", dilation[d]);
    const int64_t out = (in - 1) * stride[d] - 2 * padding[d] + kernel + output_padding[d];
    check(out > 0, op, ": x has ", side, " ", in, ", of which padding ", padding[d], " leaves nothing");
    return out;
  }

  void check_shape(const char* argument, const Tensor& t, const Tensor& x, const std::vector<int64_t>& wanted) const {
    bool same = t.dim() == int64_t(wanted.size()) && t.scalar_type() == x.scalar_type();
    for (int64_t d = 0; same && d < t.dim(); d++) same = t.size(d) == wanted[d];
    check(same, op, ": ", argument, " is ", dtype_name(t.scalar_type()), " ", shape_of(t), "; it takes ",
          dtype_name(x.scalar_type()), " (", wanted[0], ", ", wanted[1], ", ", wanted[2], ", ", wanted[3], ")");
  }

  void check_channels(const char* argument, const OptionalTensor& t, int64_t channels) const {
    check(!t.has_value() || (t->dim() == 1 && t->size(0) == channels), op, ": ", argument, " has shape ",
          t.has_value() ? shape_of(*t) : "", "; it takes (", channels, ",)");
  }
};

struct NormArguments {
  bool norm, training;
  double eps;
  Activation activation;
  double negative_slope;
};

template <class Passes>
struct ConvBnAct {
  using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
  using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  using Ints = std::vector<int64_t>;

  static Four forward(const ConvArguments& conv, const NormArguments& n, const Tensor& x, const Tensor& weight,
                      const OptionalTensor& bias, const OptionalTensor& gamma, const OptionalTensor& beta,
                      const OptionalTensor& running_mean, const OptionalTensor& running_var, bool keep_z) {
    conv.check_tensors(x, weight, bias);
    const int64_t channels = conv.out_channels(weight);
    conv.check_channels("gamma", gamma, channels);
    conv.check_channels("beta", beta, channels);
    conv.check_channels("running_mean", running_mean, channels);
    conv.check_channels("running_var", running_var, channels);
    check(!n.norm || n.training || (running_mean.has_value() && running_var.has_value()), conv.op,
          ": norm=True with training=False takes running_mean and running_var");

    Tensor z = conv.convolve(x, weight, bias);
    const ScalarType dtype = statistics_dtype(x);
    if (!n.norm) {
      Passes::activate_(z, n.activation, n.negative_slope);
      return {z, nothing(x), empty(x, {0}, dtype), empty(x, {0}, dtype)};
    }
    check(!n.training || z.numel() != channels, conv.op, ": the convolution gives one value a channel, shape ",
          shape_of(z), "; batch statistics take more than one");
    Tensor mean, invstd;
    if (n.training) {
      Tensor var;
      std::tie(mean, var) = Passes::stats(z);
      invstd = Passes::inverse_std(var, n.eps, dtype);
    } else {
      mean = torch::stable::to(*running_mean, dtype, std::nullopt, std::nullopt, std::nullopt, false, /*copy=*/true);
      invstd = Passes::inverse_std(*running_var, n.eps, dtype);
    }
    Tensor y = keep_z ? torch::stable::empty_like(z) : z;
    Passes::normalize(z, mean, invstd, gamma, beta, n.activation, n.negative_slope, y);
    return {y, keep_z ? z : nothing(x), mean, invstd};
  }

  static Five backward(const ConvArguments& conv, const NormArguments& n, const Tensor& grad_y, const Tensor& x,
                       const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& gamma,
                       const OptionalTensor& beta, const Tensor& y, const Tensor& z, const Tensor& mean,
                       const Tensor& invstd, bool need_x, bool need_weight, bool need_bias, bool need_affine) {
    const std::vector<int64_t> shape = conv.check_tensors(x, weight, bias);
    conv.check_shape("grad_y", grad_y, x, shape);
    if (n.norm) conv.check_shape("z", z, x, shape);
    if (!n.norm || n.activation == Activation::Tanh) conv.check_shape("y", y, x, shape);
    const int64_t channels = conv.out_channels(weight);
    const bool batch_statistics = n.norm && n.training;
    Tensor grad_gamma = nothing(x), grad_beta = nothing(x), grad_z;
    if (!n.norm) {
      grad_z = Passes::activation_backward(grad_y, y, n.activation, n.negative_slope);
    } else {
      OptionalTensor sum_g, sum_g_xhat;
      if (batch_statistics || need_affine) {
        auto [g, g_xhat] = Passes::backward_reduce(grad_y, y, z, mean, invstd, gamma, beta, n.activation, n.negative_slope);
        if (need_affine) {
          grad_gamma = torch::stable::to(g_xhat, gamma.has_value() ? gamma->scalar_type() : g_xhat.scalar_type());
          grad_beta = torch::stable::to(g, beta.has_value() ? beta->scalar_type() : g.scalar_type());
        }
        sum_g = g;
        sum_g_xhat = g_xhat;
      }
      if (need_x || need_weight || (need_bias && !batch_statistics)) {
        const int64_t count = channels > 0 ? z.numel() / channels : 0;
        const double share = batch_statistics && count > 0 ? 1.0 / double(count) : 0.0;
        grad_z = Passes::backward_elemt(grad_y, y, z, mean, invstd, gamma, beta, sum_g, sum_g_xhat, share, n.activation,
                                        n.negative_slope);
      }
    }
    Tensor grad_x = nothing(x), grad_weight = nothing(x), grad_bias = nothing(x);
    // A bias ahead of batch statistics cannot change the output: its gradient is exactly zero.
    const bool sum_bias = need_bias && !batch_statistics;
    if (need_x || need_weight || sum_bias) {
      const auto [gx, gw, gb] = conv.backward(grad_z, x, weight, need_x, need_weight, sum_bias);
      if (need_x) grad_x = gx;
      if (need_weight) grad_weight = gw;
      if (sum_bias) grad_bias = gb;
    }
    if (need_bias && batch_statistics) {
      grad_bias = empty(x, {channels}, x.scalar_type());
      torch::stable::zero_(grad_bias);
    }
    return {grad_x, grad_weight, grad_bias, grad_gamma, grad_beta};
  }

  // ---- the four ops, in the order of their schemas -------------------------------------------------------------------

  static Four conv2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& gamma,
                     const OptionalTensor& beta, const OptionalTensor& running_mean, const OptionalTensor& running_var,
                     Ints stride, Ints padding, Ints dilation, int64_t groups, bool norm, bool training, bool keep_z,
                     double eps, std::string activation, double negative_slope) {
    const char* op = "conv2d_bn_act";
    return forward({op, false, stride, padding, {0, 0}, dilation, groups},
                   {norm, training, eps, parse_activation(op, activation), negative_slope}, x, weight, bias, gamma, beta,
                   running_mean, running_var, keep_z);
  }

  static Four conv_transpose2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                               const OptionalTensor& gamma, const OptionalTensor& beta,
                               const OptionalTensor& running_mean, const OptionalTensor& running_var, Ints stride,
                               Ints padding, Ints output_padding, Ints dilation, int64_t groups, bool norm, bool training,
                               bool keep_z, double eps, std::string activation, double negative_slope) {
    const char* op = "conv_transpose2d_bn_act";
    return forward({op, true, stride, padding, output_padding, dilation, groups},
                   {norm, training, eps, parse_activation(op, activation), negative_slope}, x, weight, bias, gamma, beta,
                   running_mean, running_var, keep_z);
  }

  static Five conv2d_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                              const OptionalTensor& gamma, const OptionalTensor& beta, const Tensor& y, const Tensor& z,
                              const Tensor& mean, const Tensor& invstd, Ints stride, Ints padding, Ints dilation,
                              int64_t groups, bool norm, bool training, std::string activation, double negative_slope,
                              bool need_x, bool need_weight, bool need_bias, bool need_affine, double eps) {
    const char* op = "conv2d_bn_act_backward";
    return backward({op, false, stride, padding, {0, 0}, dilation, groups},
                    {norm, training, eps, parse_activation(op, activation), negative_slope}, grad_y, x, weight, bias,
                    gamma, beta, y, z, mean, invstd, need_x, need_weight, need_bias, need_affine);
  }

  static Five conv_transpose2d_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                        const OptionalTensor& bias, const OptionalTensor& gamma,
                                        const OptionalTensor& beta, const Tensor& y, const Tensor& z, const Tensor& mean,
                                        const Tensor& invstd, Ints stride, Ints padding, Ints output_padding,
                                        Ints dilation, int64_t groups, bool norm, bool training, std::string activation,
                                        double negative_slope, bool need_x, bool need_weight, bool need_bias,
                                        bool need_affine, double eps) {
    const char* op = "conv_transpose2d_bn_act_backward";
    return backward({op, true, stride, padding, output_padding, dilation, groups},
                    {norm, training, eps, parse_activation(op, activation), negative_slope}, grad_y, x, weight, bias,
                    gamma, beta, y, z, mean, invstd, need_x, need_weight, need_bias, need_affine);
  }
};

template <class Passes>
void register_conv_bn_act(torch::stable::detail::StableLibrary& m) {
  using Ops = ConvBnAct<Passes>;
  m.impl("conv2d_bn_act", TORCH_BOX(&Ops::conv2d));
  m.impl("conv_transpose2d_bn_act", TORCH_BOX(&Ops::conv_transpose2d));
  m.impl("conv2d_bn_act_backward", TORCH_BOX(&Ops::conv2d_backward));
  m.impl("conv_transpose2d_bn_act_backward", TORCH_BOX(&Ops::conv_transpose2d_backward));
}

}  // namespace fastgan::ops
