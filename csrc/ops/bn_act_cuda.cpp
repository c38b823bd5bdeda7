// The ops bn_stats, update_running_stats_, bn_act, bn_act_backward_reduce and bn_act_backward_elemt on CUDA devices:
// checks, allocation, stream.
#include "ops/bn_act_cuda.h"

#include "cuda/bn_act.h"
#include "cuda/bn_act_backward.h"
#include "cuda/bn_stats.h"
#include "ops/bn_act.h"
#include "ops/channels_cuda.h"

namespace fastgan::ops {
namespace {

// z as the kernels see it, checked against what their 32-bit indices reach.
Image cuda_image(const char* op, const Tensor& z) {
  Image image = image_of(op, "z", z);
  check(image.shape.numel() > 0, op, ": z has shape ", shape_of(z), "; the CUDA kernels take at least one element");
  check_below(op, "a channel", image.shape.per_channel(), kMaxPerChannel);
  check_below(op, "a sample", image.shape.channels * image.shape.pixels, kMaxPerSample);
  return image;
}

// The shape of a tensor without channels, walked in memory order; t is dense.
cuda::ImageShape flat_shape(const char* op, const Tensor& t) {
  const cuda::ImageShape shape{t.size(0), 1, t.numel() / t.size(0), cuda::Layout::ChannelsFirst};
  check_below(op, "a sample", shape.pixels, kMaxPerSample);
  return shape;
}

// The statistics of every channel of z, by one call of the kernel.
struct Statistics {
  Tensor mean, var, invstd;  // (C,) float32

  Statistics(const Tensor& z, double eps) {
    const char* op = "bn_stats";
    const CudaScope scope(op, "z", z);
    const Image image = cuda_image(op, z);
    mean = empty(z, {image.shape.channels}, ScalarType::Float);
    var = new_like(mean);
    invstd = new_like(mean);
    cuda::BnStatsParams p{image.tensor.const_data_ptr(),    image.shape, cuda_dtype(op, "z", z),
                          mean.mutable_data_ptr<float>(),   var.mutable_data_ptr<float>(),
                          invstd.mutable_data_ptr<float>(), float(eps),  nullptr};
    const Tensor memory = workspace(z, cuda::bn_stats_workspace(p));
    p.workspace = memory.mutable_data_ptr();
    check_launch(op, cuda::bn_stats(p, scope.stream()));
  }
};

// What both backward passes take, in the memory order of z; keeps every tensor alive.
struct BackwardArguments {
  Image z;
  Tensor grad_y, y;
  Channels channels;
  cuda::BnActBackwardParams params;

  BackwardArguments(const char* op, const Tensor& grad_y_of, const Tensor& y_of, const Tensor& z_of, const Tensor& mean,
                    const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta, Activation activation,
                    double negative_slope)
      : z(cuda_image(op, z_of)),
        grad_y((check_same_kind(op, "grad_y", grad_y_of, "z", z_of), in_memory_order_of(grad_y_of, z.tensor))),
        y(z.tensor),  // stands in where y is not read
        channels(op, z.tensor, z.shape.channels, mean, invstd, gamma, beta) {
    if (activation == Activation::Tanh) {
      check_same_kind(op, "y", y_of, "z", z_of);
      y = in_memory_order_of(y_of, z.tensor);
    }
    params = {grad_y.const_data_ptr(), y.const_data_ptr(),       z.tensor.const_data_ptr(),
              z.shape,                 cuda_dtype(op, "z", z_of), channels.pointers(),
              activation,              float(negative_slope)};
  }
};

}  // namespace

std::tuple<Tensor, Tensor> CudaPasses::stats(const Tensor& z) {
  const Statistics s(z, 0.0);
  return {s.mean, s.var};
}

std::tuple<Tensor, Tensor> CudaPasses::mean_invstd(const Tensor& z, double eps) {
  const Statistics s(z, eps);
  return {s.mean, s.invstd};
}

Tensor CudaPasses::inverse_std(const Tensor& var, double eps, ScalarType) {
  const char* op = "inverse_std";
  const CudaScope scope(op, "var", var);
  const Tensor from = float_vector(op, "var", var, var.numel(), var);
  Tensor invstd = new_like(from);
  if (var.numel() == 0) return invstd;
  const cuda::InverseStdParams p{from.const_data_ptr<float>(), invstd.mutable_data_ptr<float>(), var.numel(), float(eps)};
  check_launch(op, cuda::inverse_std(p, scope.stream()));
  return invstd;
}

void CudaPasses::update_running_stats_(Tensor running_mean, Tensor running_var, const Tensor& mean, const Tensor& invstd,
                                       int64_t count, double momentum, double eps) {
  const char* op = "update_running_stats_";
  const CudaScope scope(op, "running_mean", running_mean);
  const int64_t channels = running_mean.numel();
  check_vector(op, "running_mean", running_mean, channels, running_mean);
  check_same_kind(op, "running_var", running_var, "running_mean", running_mean);
  check(channels <= 1 || (running_mean.is_contiguous() && running_var.is_contiguous()), op,
        ": running_mean or running_var has gaps in memory; the CUDA kernels take contiguous buffers");
  const Tensor means = float_vector(op, "mean", mean, channels, running_mean);
  const Tensor invstds = float_vector(op, "invstd", invstd, channels, running_mean);
  if (channels == 0) return;
  check_launch(op, cuda::running_stats({means.const_data_ptr<float>(), invstds.const_data_ptr<float>(),
                                        running_mean.mutable_data_ptr(), running_var.mutable_data_ptr(), channels,
                                        cuda_dtype(op, "running_mean", running_mean), float(momentum),
                                        float(bessel_correction(count)), float(eps)},
                                       scope.stream()));
}

void CudaPasses::normalize(const Tensor& z, const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                           const OptionalTensor& beta, Activation activation, double negative_slope, Tensor& y) {
  const char* op = "bn_act";
  const CudaScope scope(op, "z", z);
  const Image image = cuda_image(op, z);
  const Channels channels(op, z, image.shape.channels, mean, invstd, gamma, beta);
  const bool direct = same_memory_order(image.tensor, y);
  Tensor out = direct ? y : new_like(image.tensor);
  check_launch(op, cuda::bn_act({image.tensor.const_data_ptr(), out.mutable_data_ptr(), image.shape, cuda_dtype(op, "z", z),
                                 channels.pointers(), activation, float(negative_slope)},
                                scope.stream()));
  if (!direct) torch::stable::copy_(y, out);
}

void CudaPasses::activate_(Tensor& y, const OptionalTensor& bias, Activation activation, double negative_slope) {
  if ((activation == Activation::None && !bias.has_value()) || y.numel() == 0) return;
  const char* op = "activation";
  const CudaScope scope(op, "y", y);
  const cuda::DType dtype = cuda_dtype(op, "y", y);
  cuda::BnActParams p{y.const_data_ptr(), y.mutable_data_ptr(), {}, dtype, cuda::BnChannels{}, activation,
                      float(negative_slope)};
  Tensor beta;
  if (bias.has_value()) {
    check_vector(op, "bias", *bias, y.size(1), y);
    beta = dense(*bias);
    p.shape = cuda_image(op, y).shape;
    p.channels.beta = beta.const_data_ptr();
    p.channels.affine_dtype = cuda_dtype(op, "bias", beta);
  } else {
    p.shape = flat_shape(op, y);
  }
  check_launch(op, cuda::bn_act(p, scope.stream()));
}

std::tuple<Tensor, Tensor> CudaPasses::backward_reduce(const Tensor& grad_y, const Tensor& y, const Tensor& z,
                                                       const Tensor& mean, const Tensor& invstd,
                                                       const OptionalTensor& gamma, const OptionalTensor& beta,
                                                       Activation activation, double negative_slope) {
  const char* op = "bn_act_backward_reduce";
  const CudaScope scope(op, "z", z);
  const BackwardArguments a(op, grad_y, y, z, mean, invstd, gamma, beta, activation, negative_slope);
  Tensor sum_g = empty(z, {a.z.shape.channels}, ScalarType::Float), sum_g_xhat = new_like(sum_g);
  cuda::BnActBackwardReduceParams p{a.params, sum_g.mutable_data_ptr<float>(), sum_g_xhat.mutable_data_ptr<float>(),
                                    nullptr};
  const Tensor memory = workspace(z, cuda::bn_act_backward_reduce_workspace(p));
  p.workspace = memory.mutable_data_ptr();
  check_launch(op, cuda::bn_act_backward_reduce(p, scope.stream()));
  return {sum_g, sum_g_xhat};
}

Tensor CudaPasses::backward_elemt(const Tensor& grad_y, const Tensor& y, const Tensor& z, const Tensor& mean,
                                  const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta,
                                  const OptionalTensor& sum_g, const OptionalTensor& sum_g_xhat, double share,
                                  Activation activation, double negative_slope) {
  const char* op = "bn_act_backward_elemt";
  const CudaScope scope(op, "z", z);
  const BackwardArguments a(op, grad_y, y, z, mean, invstd, gamma, beta, activation, negative_slope);
  const auto sums = [&](const char* argument, const OptionalTensor& t) -> OptionalTensor {
    if (!t.has_value() || share == 0) return std::nullopt;
    return float_vector(op, argument, *t, a.z.shape.channels, z);
  };
  const OptionalTensor g = sums("mean_g", sum_g), g_xhat = sums("mean_g_xhat", sum_g_xhat);
  Tensor grad_z = new_like(a.z.tensor);
  check_launch(op, cuda::bn_act_backward_elemt({a.params, g.has_value() ? g->const_data_ptr<float>() : nullptr,
                                                g_xhat.has_value() ? g_xhat->const_data_ptr<float>() : nullptr, float(share),
                                                grad_z.mutable_data_ptr()},
                                               scope.stream()));
  return in_memory_order_of(grad_z, z);
}

Tensor CudaPasses::activation_backward(const Tensor& grad, const Tensor& y, Activation activation, double negative_slope) {
  if (activation == Activation::None || y.numel() == 0) return grad;
  const char* op = "activation_backward";
  const CudaScope scope(op, "y", y);
  check_same_kind(op, "grad", grad, "y", y);
  Tensor out = new_like(y);  // dense, whatever y is
  const Tensor g = in_memory_order_of(grad, out), from = in_memory_order_of(y, out);
  const cuda::BnActBackwardParams common{g.const_data_ptr(),     from.const_data_ptr(),    from.const_data_ptr(),
                                         flat_shape(op, out),    cuda_dtype(op, "y", y),   cuda::BnChannels{},
                                         activation,             float(negative_slope)};
  check_launch(op, cuda::bn_act_backward_elemt({common, nullptr, nullptr, 0.f, out.mutable_data_ptr()}, scope.stream()));
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) { register_bn_act<CudaPasses>(m); }

}  // namespace fastgan::ops
