// The inner ops of the gradient penalty on the CPU: interpolate, penalty, leaky_mask_mul.
#include <cmath>

#include "cpu/activation.h"
#include "cpu/interpolate.h"
#include "cpu/penalty.h"
#include "ops/bn_act_cpu.h"
#include "ops/tensor_cpu.h"

namespace fastgan::ops {
namespace {

// t where samples follow each other and the elements of each lie together, else a contiguous copy.
Tensor sample_major(const Tensor& t) {
  return t.is_contiguous() || (t.dim() >= 2 && is_channels_last(t)) ? t : dense(t);
}

// The values of a (N,) tensor in the arithmetic type of the kernels.
Tensor arithmetic_vector(const Tensor& t, cpu::DType dtype) {
  const ScalarType type = dtype == cpu::DType::Float64 ? ScalarType::Double : ScalarType::Float;
  return dense(torch::stable::to(t, type));
}

Tensor interpolate(const Tensor& real, const Tensor& fake, const Tensor& epsilon) {
  const char* op = "interpolate";
  check(real.dim() >= 1, op, ": real has shape (); it takes (N, ...)");
  bool same = real.dim() == fake.dim() && real.scalar_type() == fake.scalar_type();
  for (int64_t d = 0; same && d < real.dim(); d++) same = real.size(d) == fake.size(d);
  check(same, op, ": fake is ", dtype_name(fake.scalar_type()), " ", shape_of(fake), "; it takes real's ",
        dtype_name(real.scalar_type()), " ", shape_of(real));
  check(epsilon.dim() == 1 && epsilon.size(0) == real.size(0), op, ": epsilon has shape ", shape_of(epsilon),
        "; it takes (", real.size(0), ",), one value a sample");
  Tensor result = new_like(real);
  if (real.numel() == 0) return result;
  const cpu::DType dtype = kernel_dtype(op, "real", real);
  const Tensor a = sample_major(real), b = in_memory_order_of(fake, a), e = arithmetic_vector(epsilon, dtype);
  const bool direct = same_memory_order(result, a);
  Tensor out = direct ? result : new_like(a);
  const int64_t size = real.numel() / real.size(0);
  const cpu::InterpolateParams params{dtype, size, a.const_data_ptr(), b.const_data_ptr(), out.mutable_data_ptr(),
                                      e.const_data_ptr()};
  parallel(cpu::SampleTiles(real.size(0), size).units, real.numel(),
           [&](int64_t begin, int64_t end) { cpu::interpolate(params, begin, end); });
  return direct ? result : torch::stable::copy_(result, out);
}

std::tuple<Tensor, Tensor, Tensor> penalty(const Tensor& grad, double weight, double target, bool one_sided) {
  const char* op = "penalty";
  check(grad.dim() >= 1, op, ": grad has shape (); it takes (N, ...)");
  const cpu::DType dtype = kernel_dtype(op, "grad", grad);
  const int64_t samples = grad.size(0), size = samples > 0 ? grad.numel() / samples : 0;
  const Tensor g = sample_major(grad);
  const cpu::SampleTiles tiles(samples, size);
  std::vector<double> squares(tiles.units), norms(samples, 0.0), factors(samples, 0.0);
  cpu::PenaltyParams params{dtype, size, g.const_data_ptr(), squares.data(), nullptr, nullptr};
  parallel(tiles.units, grad.numel(), [&](int64_t begin, int64_t end) { cpu::penalty_norms(params, begin, end); });

  double total = 0;
  for (int64_t n = 0; n < samples; n++) {
    double square = 0;
    for (int64_t piece = 0; piece < tiles.pieces; piece++) square += squares[n * tiles.pieces + piece];
    norms[n] = std::sqrt(square);
    double distance = norms[n] - target;
    if (one_sided && distance < 0) distance = 0;
    total += distance * distance;
    if (norms[n] > 0 || std::isnan(norms[n])) factors[n] = 2 * weight / double(samples) * distance / norms[n];
  }
  const ScalarType statistics = statistics_dtype(grad);
  const Tensor factor = vector_tensor(grad, factors, statistics);
  Tensor value = empty(grad, {}, statistics);
  const double mean = weight * (total / double(samples));  // NaN for an empty batch, as torch's mean
  if (statistics == ScalarType::Double) {
    *value.mutable_data_ptr<double>() = mean;
  } else {
    *value.mutable_data_ptr<float>() = float(mean);
  }

  Tensor result = new_like(grad);
  const bool direct = same_memory_order(result, g);
  Tensor out = direct ? result : new_like(g);
  params.factor = factor.const_data_ptr();
  params.out = out.mutable_data_ptr();
  parallel(tiles.units, grad.numel(), [&](int64_t begin, int64_t end) { cpu::penalty_scale(params, begin, end); });
  if (!direct) torch::stable::copy_(result, out);
  return {value, vector_tensor(grad, norms, statistics), result};
}

Tensor leaky_mask_mul(const Tensor& t, const Tensor& y, double negative_slope) {
  const char* op = "leaky_mask_mul";
  bool same = t.dim() == y.dim() && t.scalar_type() == y.scalar_type();
  for (int64_t d = 0; same && d < t.dim(); d++) same = t.size(d) == y.size(d);
  check(same, op, ": y is ", dtype_name(y.scalar_type()), " ", shape_of(y), "; it takes t's ",
        dtype_name(t.scalar_type()), " ", shape_of(t));
  Tensor result = new_like(t);  // dense, whatever t is
  const Tensor a = in_memory_order_of(t, result), mask = in_memory_order_of(y, result);
  const cpu::ActivationParams params{kernel_dtype(op, "t", t),  cpu::Activation::LeakyRelu, negative_slope,
                                     a.const_data_ptr(), mask.const_data_ptr(), result.mutable_data_ptr()};
  parallel(t.numel(), t.numel(), [&](int64_t begin, int64_t end) { cpu::activation_backward(params, begin, end); });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("interpolate", TORCH_BOX(&interpolate));
  m.impl("penalty", TORCH_BOX(&penalty));
  m.impl("leaky_mask_mul", TORCH_BOX(&leaky_mask_mul));
}

}  // namespace fastgan::ops
