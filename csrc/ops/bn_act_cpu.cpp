// The ops bn_stats, bn_act, bn_act_backward_reduce and bn_act_backward_elemt on the CPU: checks, allocation, threads.
#include "ops/bn_act_cpu.h"

#include <cmath>

#include "cpu/activation.h"
#include "cpu/bn_act.h"
#include "cpu/bn_act_backward.h"
#include "cpu/bn_stats.h"
#include "ops/bn_act.h"
#include "ops/tensor_cpu.h"

namespace fastgan::ops {
namespace {

// mean, gamma * invstd and beta as kernels take them; the forward and the backward pass must make them alike.
struct Affine {
  ChannelArray mean, scale, beta;

  Affine(const char* op, const Image& z, cpu::DType dtype, const Tensor& mean_of, const Tensor& invstd,
         const OptionalTensor& gamma, const OptionalTensor& beta_of)
      : mean(z.shape, dtype, channel_values(op, "mean", mean_of, z.shape.channels, 0)),
        scale(z.shape, dtype, scales(op, z, invstd, gamma)),
        beta(z.shape, dtype, channel_values(op, "beta", beta_of, z.shape.channels, 0)) {}

  static std::vector<double> scales(const char* op, const Image& z, const Tensor& invstd, const OptionalTensor& gamma) {
    std::vector<double> scale = channel_values(op, "invstd", invstd, z.shape.channels, 1);
    const std::vector<double> factor = channel_values(op, "gamma", gamma, z.shape.channels, 1);
    for (size_t c = 0; c < scale.size(); c++) scale[c] *= factor[c];
    return scale;
  }
};

// Adds up (parts, C) in the order of the parts.
std::vector<double> sum_of_parts(const std::vector<double>& partial, int64_t parts, int64_t channels) {
  std::vector<double> total(channels, 0.0);
  for (int64_t part = 0; part < parts; part++) {
    for (int64_t c = 0; c < channels; c++) total[c] += partial[part * channels + c];
  }
  return total;
}

void check_same_shape(const char* op, const char* argument, const Tensor& t, const Tensor& z) {
  bool same = t.dim() == z.dim() && t.scalar_type() == z.scalar_type();
  for (int64_t d = 0; same && d < z.dim(); d++) same = t.size(d) == z.size(d);
  check(same, op, ": ", argument, " is ", dtype_name(t.scalar_type()), " ", shape_of(t), "; it takes z's ",
        dtype_name(z.scalar_type()), " ", shape_of(z));
}

// What both backward passes take, in the memory order of z; keeps every array alive.
struct BackwardArguments {
  Image z;
  cpu::DType dtype;
  Tensor grad_y, y;
  Affine affine;
  cpu::BnActBackwardParams params;

  BackwardArguments(const char* op, const Tensor& grad_y_of, const Tensor& y_of, const Tensor& z_of, const Tensor& mean,
                    const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta, Activation activation,
                    double negative_slope)
      : z(image_of(op, "z", z_of)),
        dtype(kernel_dtype(op, "z", z_of)),
        grad_y((check_same_shape(op, "grad_y", grad_y_of, z_of), in_memory_order_of(grad_y_of, z.tensor))),
        y(y_of),
        affine(op, z, dtype, mean, invstd, gamma, beta),
        params{} {
    if (activation == Activation::Tanh) {
      check_same_shape(op, "y", y_of, z_of);
      y = in_memory_order_of(y_of, z.tensor);
    }
    params.dtype = dtype;
    params.shape = z.shape;
    params.grad_y = grad_y.const_data_ptr();
    params.z = z.tensor.const_data_ptr();
    params.y = y.const_data_ptr();
    params.mean = affine.mean.data();
    params.scale = affine.scale.data();
    params.beta = affine.beta.data();
    params.activation = activation;
    params.negative_slope = negative_slope;
  }
};

}  // namespace

std::tuple<Tensor, Tensor> CpuPasses::stats(const Tensor& z) {
  const char* op = "bn_stats";
  const Image image = image_of(op, "z", z);
  const int64_t channels = image.shape.channels;
  const cpu::ReductionTiles tiles(image.shape);
  std::vector<double> count(tiles.parts * channels), mean(count.size()), square(count.size());
  if (image.shape.numel() > 0) {
    const cpu::BnStatsParams params{kernel_dtype(op, "z", z), image.shape,  image.tensor.const_data_ptr(),
                                    count.data(),             mean.data(), square.data()};
    parallel(tiles.units, image.shape.numel(), [&](int64_t begin, int64_t end) { cpu::bn_stats(params, begin, end); });
  }
  // Parts are merged in their order (Chan et al. 1979); a part holds the same number of values of every channel.
  std::vector<double> means(channels), variances(channels);
  double n = 0;
  for (int64_t part = 0; part < tiles.parts; part++) {
    const double* m = mean.data() + part * channels;
    const double* s = square.data() + part * channels;
    const double added = channels > 0 ? count[part * channels] : 0, share = added / std::fmax(n + added, 1.0);
    for (int64_t c = 0; c < channels; c++) {
      const double delta = m[c] - means[c];
      means[c] += delta * share;
      variances[c] += s[c] + delta * delta * (n * share);
    }
    n += added;
  }
  for (double& v : variances) v = n > 0 ? std::max(v, 0.0) / n : 0.0;  // std::max keeps a NaN on its left
  const ScalarType dtype = statistics_dtype(z);
  return {vector_tensor(z, means, dtype), vector_tensor(z, variances, dtype)};
}

Tensor CpuPasses::inverse_std(const Tensor& var, double eps, ScalarType dtype) {
  std::vector<double> values = channel_values("inverse_std", "var", var, var.numel(), 0);
  for (double& v : values) v = 1.0 / std::sqrt(v + eps);
  return vector_tensor(var, values, dtype);
}

void CpuPasses::normalize(const Tensor& z, const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                          const OptionalTensor& beta, Activation activation, double negative_slope, Tensor& y) {
  const char* op = "bn_act";
  const Image image = image_of(op, "z", z);
  const cpu::DType dtype = kernel_dtype(op, "z", z);
  const Affine affine(op, image, dtype, mean, invstd, gamma, beta);
  cpu::BnActParams params{dtype,      image.shape,          image.tensor.const_data_ptr(), nullptr,
                          affine.mean.data(), affine.scale.data(), affine.beta.data(), activation, negative_slope};
  const bool direct = same_memory_order(image.tensor, y);
  Tensor out = direct ? y : torch::stable::empty_like(image.tensor);
  params.y = out.mutable_data_ptr();
  parallel(cpu::ElementwiseTiles(image.shape).units, image.shape.numel(),
           [&](int64_t begin, int64_t end) { cpu::bn_act(params, begin, end); });
  if (!direct) torch::stable::copy_(y, out);
}

void CpuPasses::activate_(Tensor& y, Activation activation, double negative_slope) {
  if (activation == Activation::None) return;
  const cpu::ActivationParams params{kernel_dtype("activation", "x", y), activation, negative_slope,
                                     y.const_data_ptr(), nullptr, y.mutable_data_ptr()};
  parallel(y.numel(), y.numel(), [&](int64_t begin, int64_t end) { cpu::activation(params, begin, end); });
}

std::tuple<Tensor, Tensor> CpuPasses::backward_reduce(const Tensor& grad_y, const Tensor& y, const Tensor& z,
                                                      const Tensor& mean, const Tensor& invstd,
                                                      const OptionalTensor& gamma, const OptionalTensor& beta,
                                                      Activation activation, double negative_slope) {
  const char* op = "bn_act_backward_reduce";
  BackwardArguments a(op, grad_y, y, z, mean, invstd, gamma, beta, activation, negative_slope);
  const cpu::ImageShape& shape = a.z.shape;
  const cpu::ReductionTiles tiles(shape);
  std::vector<double> sum_g(tiles.parts * shape.channels, 0.0), sum_g_centered(sum_g.size(), 0.0);
  a.params.sum_g = sum_g.data();
  a.params.sum_g_centered = sum_g_centered.data();
  if (shape.numel() > 0) {
    parallel(tiles.units, shape.numel(),
             [&](int64_t begin, int64_t end) { cpu::bn_act_backward_reduce(a.params, begin, end); });
  }
  const std::vector<double> total = sum_of_parts(sum_g, tiles.parts, shape.channels);
  std::vector<double> total_xhat = sum_of_parts(sum_g_centered, tiles.parts, shape.channels);
  const std::vector<double> factor = channel_values(op, "invstd", invstd, shape.channels, 1);
  for (int64_t c = 0; c < shape.channels; c++) total_xhat[c] *= factor[c];
  const ScalarType dtype = statistics_dtype(z);
  return {vector_tensor(z, total, dtype), vector_tensor(z, total_xhat, dtype)};
}

Tensor CpuPasses::backward_elemt(const Tensor& grad_y, const Tensor& y, const Tensor& z, const Tensor& mean,
                                 const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta,
                                 const OptionalTensor& sum_g, const OptionalTensor& sum_g_xhat, double share,
                                 Activation activation, double negative_slope) {
  const char* op = "bn_act_backward_elemt";
  BackwardArguments a(op, grad_y, y, z, mean, invstd, gamma, beta, activation, negative_slope);
  const int64_t channels = a.z.shape.channels;
  const std::vector<double> scale = Affine::scales(op, a.z, invstd, gamma);
  const std::vector<double> inverse = channel_values(op, "invstd", invstd, channels, 1);
  std::vector<double> offset = channel_values(op, "mean_g", sum_g, channels, 0);
  std::vector<double> slope = channel_values(op, "mean_g_xhat", sum_g_xhat, channels, 0);
  for (int64_t c = 0; c < channels; c++) {
    offset[c] *= share * scale[c];
    slope[c] *= share * scale[c] * inverse[c];
  }
  const ChannelArray offsets(a.z.shape, a.dtype, offset), slopes(a.z.shape, a.dtype, slope);
  a.params.offset = offsets.data();
  a.params.slope_z = slopes.data();
  Tensor grad_z = torch::stable::empty_like(a.z.tensor);
  a.params.grad_z = grad_z.mutable_data_ptr();
  parallel(cpu::ElementwiseTiles(a.z.shape).units, a.z.shape.numel(),
           [&](int64_t begin, int64_t end) { cpu::bn_act_backward_elemt(a.params, begin, end); });
  return in_memory_order_of(grad_z, z);
}

Tensor CpuPasses::activation_backward(const Tensor& grad, const Tensor& y, Activation activation, double negative_slope) {
  if (activation == Activation::None) return grad;
  Tensor out = torch::stable::empty_like(y);  // dense, whatever y is
  const Tensor g = in_memory_order_of(grad, out), mask = in_memory_order_of(y, out);
  const cpu::ActivationParams params{kernel_dtype("activation_backward", "y", y), activation, negative_slope,
                                     g.const_data_ptr(), mask.const_data_ptr(), out.mutable_data_ptr()};
  parallel(y.numel(), y.numel(), [&](int64_t begin, int64_t end) { cpu::activation_backward(params, begin, end); });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) { register_bn_act<CpuPasses>(m); }

}  // namespace fastgan::ops
