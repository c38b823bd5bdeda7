// The ops bn_stats, update_running_stats_, bn_act, bn_act_backward_reduce and bn_act_backward_elemt on the CPU:
// checks, allocation, threads.
#include "ops/bn_act_cpu.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <type_traits>

#include "cpu/activation.h"
#include "cpu/bn_act.h"
#include "cpu/bn_act_backward.h"
#include "cpu/bn_stats.h"
#include "ops/bn_act.h"
#include "ops/tensor_cpu.h"

namespace fastgan::ops {
namespace {

// The vectors of the forward pass as arrays of kernels; the backward pass must make them alike.
struct Affine {
  ChannelArray mean, scale, beta;

  Affine(const Image& z, cpu::DType dtype, const ChannelVectors& v)
      : mean(z.shape, dtype, v.mean), scale(z.shape, dtype, v.scale), beta(z.shape, dtype, v.beta) {}
};

// Adds up (parts, C) in the order of the parts.
std::vector<double> sum_of_parts(const std::vector<double>& partial, int64_t parts, int64_t channels) {
  std::vector<double> total(channels, 0.0);
  for (int64_t part = 0; part < parts; part++) {
    for (int64_t c = 0; c < channels; c++) total[c] += partial[part * channels + c];
  }
  return total;
}

void check_buffer(const char* op, const char* argument, const Tensor& running, int64_t channels) {
  check(running.dim() == 1 && running.size(0) == channels && running.is_contiguous(), op, ": ", argument, " has shape ",
        shape_of(running), running.is_contiguous() ? "" : " and gaps in memory", "; it takes (", channels, ",), contiguous");
  kernel_dtype(op, argument, running);
}

// running <- (1 - momentum) * running + momentum * values; a buffer as checked.
void average_into(Tensor& running, const std::vector<double>& values, double momentum) {
  const auto average = [&](auto* to) {
    using T = std::remove_pointer_t<decltype(to)>;
    using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;  // 16-bit types convert from float alone
    for (size_t c = 0; c < values.size(); c++) {
      T& r = to[c];
      r = T(Wide((1.0 - momentum) * double(Wide(r)) + momentum * values[c]));
    }
  };
  switch (running.scalar_type()) {
    case ScalarType::Float: return average(running.mutable_data_ptr<float>());
    case ScalarType::Double: return average(running.mutable_data_ptr<double>());
    case ScalarType::Half: return average(static_cast<torch::headeronly::Half*>(running.mutable_data_ptr()));
    case ScalarType::BFloat16: return average(static_cast<torch::headeronly::BFloat16*>(running.mutable_data_ptr()));
    default: break;
  }
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
  ChannelVectors vectors;
  Affine affine;
  cpu::BnActBackwardParams params;

  BackwardArguments(const char* op, const Tensor& grad_y_of, const Tensor& y_of, const Tensor& z_of, const Tensor& mean,
                    const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta, Activation activation,
                    double negative_slope)
      : z(image_of(op, "z", z_of)),
        dtype(kernel_dtype(op, "z", z_of)),
        grad_y((check_same_shape(op, "grad_y", grad_y_of, z_of), in_memory_order_of(grad_y_of, z.tensor))),
        y(y_of),
        vectors(mean, invstd, gamma, beta),
        affine(z, dtype, vectors),
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

// Chan et al. 1979.
std::tuple<Tensor, Tensor> PartialStatistics::merge(const Tensor& like, ScalarType dtype) const {
  std::vector<double> means(channels), variances(channels), n(channels);
  for (int64_t part = 0; part < parts; part++) {
    for (int64_t c = 0; c < channels; c++) {
      const int64_t at = part * channels + c;
      const double share = count[at] / std::fmax(n[c] + count[at], 1.0), delta = mean[at] - means[c];
      means[c] += delta * share;
      variances[c] += square[at] + delta * delta * (n[c] * share);
      n[c] += count[at];
    }
  }
  for (int64_t c = 0; c < channels; c++) {
    variances[c] = n[c] > 0 ? std::max(variances[c], 0.0) / n[c] : 0.0;  // std::max keeps a NaN on its left
  }
  return {vector_tensor(like, means, dtype), vector_tensor(like, variances, dtype)};
}

ChannelVectors::ChannelVectors(const Tensor& mean_of, const Tensor& invstd, const OptionalTensor& gamma,
                               const OptionalTensor& beta_of) {
  const char* op = "bn_act";
  const int64_t channels = invstd.numel();
  mean = channel_values(op, "mean", mean_of, channels, 0);
  scale = channel_values(op, "invstd", invstd, channels, 1);
  beta = channel_values(op, "beta", beta_of, channels, 0);
  const std::vector<double> factor = channel_values(op, "gamma", gamma, channels, 1);
  for (int64_t c = 0; c < channels; c++) scale[c] *= factor[c];
}

void ChannelVectors::set_sums(const Tensor& invstd, const OptionalTensor& sum_g, const OptionalTensor& sum_g_xhat,
                              double share) {
  const char* op = "bn_act_backward_elemt";
  const int64_t channels = int64_t(scale.size());
  const std::vector<double> inverse = channel_values(op, "invstd", invstd, channels, 1);
  offset = channel_values(op, "mean_g", sum_g, channels, 0);
  slope_z = channel_values(op, "mean_g_xhat", sum_g_xhat, channels, 0);
  for (int64_t c = 0; c < channels; c++) {
    offset[c] *= share * scale[c];
    slope_z[c] *= share * scale[c] * inverse[c];
  }
}

std::tuple<Tensor, Tensor> CpuPasses::stats(const Tensor& z) {
  const char* op = "bn_stats";
  const Image image = image_of(op, "z", z);
  const int64_t channels = image.shape.channels;
  const cpu::ReductionTiles tiles(image.shape);
  PartialStatistics partial(tiles.parts, channels);
  if (image.shape.numel() > 0) {
    const cpu::BnStatsParams params{kernel_dtype(op, "z", z), image.shape,         image.tensor.const_data_ptr(),
                                    partial.count.data(),     partial.mean.data(), partial.square.data()};
    parallel(tiles.units, image.shape.numel(), [&](int64_t begin, int64_t end) { cpu::bn_stats(params, begin, end); });
  }
  return partial.merge(z, statistics_dtype(z));
}

std::tuple<Tensor, Tensor> CpuPasses::mean_invstd(const Tensor& z, double eps) {
  const auto [mean, var] = stats(z);
  return {mean, inverse_std(var, eps, statistics_dtype(z))};
}

Tensor CpuPasses::inverse_std(const Tensor& var, double eps, ScalarType dtype) {
  std::vector<double> values = channel_values("inverse_std", "var", var, var.numel(), 0);
  for (double& v : values) v = 1.0 / std::sqrt(v + eps);
  return vector_tensor(var, values, dtype);
}

void CpuPasses::update_running_stats_(Tensor running_mean, Tensor running_var, const Tensor& mean, const Tensor& invstd,
                                      int64_t count, double momentum, double eps) {
  const char* op = "update_running_stats_";
  const int64_t channels = mean.numel();
  const std::vector<double> means = channel_values(op, "mean", mean, channels, 0);
  std::vector<double> variances = channel_values(op, "invstd", invstd, channels, 1);
  for (double& v : variances) v = bessel_correction(count) * (1.0 / (v * v) - eps);
  check_buffer(op, "running_mean", running_mean, channels);  // both before either is changed
  check_buffer(op, "running_var", running_var, channels);
  average_into(running_mean, means, momentum);
  average_into(running_var, variances, momentum);
}

void CpuPasses::normalize(const Tensor& z, const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                          const OptionalTensor& beta, Activation activation, double negative_slope, Tensor& y) {
  const char* op = "bn_act";
  const Image image = image_of(op, "z", z);
  const cpu::DType dtype = kernel_dtype(op, "z", z);
  const Affine affine(image, dtype, ChannelVectors(mean, invstd, gamma, beta));
  cpu::BnActParams params{dtype,      image.shape,          image.tensor.const_data_ptr(), nullptr,
                          affine.mean.data(), affine.scale.data(), affine.beta.data(), activation, negative_slope};
  const bool direct = same_memory_order(image.tensor, y);
  Tensor out = direct ? y : pooled_like(image.tensor);
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
  a.vectors.set_sums(invstd, sum_g, sum_g_xhat, share);
  const ChannelArray offsets(a.z.shape, a.dtype, a.vectors.offset), slopes(a.z.shape, a.dtype, a.vectors.slope_z);
  a.params.offset = offsets.data();
  a.params.slope_z = slopes.data();
  Tensor grad_z = pooled_like(a.z.tensor);
  a.params.grad_z = grad_z.mutable_data_ptr();
  parallel(cpu::ElementwiseTiles(a.z.shape).units, a.z.shape.numel(),
           [&](int64_t begin, int64_t end) { cpu::bn_act_backward_elemt(a.params, begin, end); });
  return in_memory_order_of(grad_z, z);
}

Tensor CpuPasses::activation_backward(const Tensor& grad, const Tensor& y, Activation activation, double negative_slope) {
  if (activation == Activation::None) return grad;
  Tensor out = new_like(y);  // dense, whatever y is
  const Tensor g = in_memory_order_of(grad, out), mask = in_memory_order_of(y, out);
  const cpu::ActivationParams params{kernel_dtype("activation_backward", "y", y), activation, negative_slope,
                                     g.const_data_ptr(), mask.const_data_ptr(), out.mutable_data_ptr()};
  parallel(y.numel(), y.numel(), [&](int64_t begin, int64_t end) { cpu::activation_backward(params, begin, end); });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) { register_bn_act<CpuPasses>(m); }

}  // namespace fastgan::ops
