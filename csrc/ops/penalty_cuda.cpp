// The inner ops of the gradient penalty on CUDA devices: interpolate, penalty, leaky_mask_mul.
#include <limits>

#include "cuda/interpolate.h"
#include "cuda/leaky_mask_mul.h"
#include "cuda/penalty.h"
#include "ops/tensor_cuda.h"

namespace fastgan::ops {
namespace {

Tensor interpolate(const Tensor& real, const Tensor& fake, const Tensor& epsilon) {
  const char* op = "interpolate";
  check(real.dim() >= 1, op, ": real has shape (); it takes (N, ...)");
  check_same_kind(op, "fake", fake, "real", real);
  check_vector(op, "epsilon", epsilon, real.size(0), real);
  Tensor result = new_like(real);
  if (real.numel() == 0) return result;
  const CudaScope scope(op, "real", real);
  const bool wide = epsilon.scalar_type() == ScalarType::Double;
  const Tensor a = with_adjacent_samples(real), b = in_memory_order_of(fake, a),
               e = dense(wide ? torch::stable::to(epsilon, ScalarType::Float) : epsilon);
  const bool direct = same_memory_order(result, a);
  Tensor out = direct ? result : new_like(a);
  const int64_t elements = real.numel() / real.size(0);
  check_below(op, "a sample", elements, kMaxPerSample);
  check_launch(op, cuda::interpolate({a.const_data_ptr(), b.const_data_ptr(), e.const_data_ptr(), out.mutable_data_ptr(),
                                      real.size(0), elements, cuda_dtype(op, "real", real), cuda_dtype(op, "epsilon", e)},
                                     scope.stream()));
  return direct ? result : torch::stable::copy_(result, out);
}

std::tuple<Tensor, Tensor, Tensor> penalty(const Tensor& grad, double weight, double target, bool one_sided) {
  const char* op = "penalty";
  check(grad.dim() >= 1, op, ": grad has shape (); it takes (N, ...)");
  const CudaScope scope(op, "grad", grad);
  const int64_t samples = grad.size(0);
  const double at_zero = one_sided && target > 0 ? 0 : -target;  // the excess of a norm of 0
  Tensor value = empty(grad, {}, ScalarType::Float), norms = empty(grad, {samples}, ScalarType::Float);
  Tensor result = new_like(grad);
  if (grad.numel() == 0) {  // NaN without samples, as a mean of nothing; norms of 0 for samples without elements
    torch::stable::fill_(value, samples == 0 ? std::numeric_limits<double>::quiet_NaN() : weight * at_zero * at_zero);
    torch::stable::zero_(norms);
    return {value, norms, result};
  }
  const Tensor g = with_adjacent_samples(grad);
  const bool direct = same_memory_order(result, g);
  Tensor out = direct ? result : new_like(g);
  check_below(op, "a sample", grad.numel() / samples, kMaxPerSample);
  cuda::PenaltyParams p{g.const_data_ptr(), out.mutable_data_ptr(),  value.mutable_data_ptr<float>(),
                        norms.mutable_data_ptr<float>(), samples,    grad.numel() / samples,
                        cuda_dtype(op, "grad", grad),    float(weight), float(target), one_sided, nullptr};
  const Tensor memory = workspace(grad, cuda::penalty_workspace(p));
  p.workspace = memory.mutable_data_ptr<float>();
  check_launch(op, cuda::penalty(p, scope.stream()));
  if (!direct) torch::stable::copy_(result, out);
  return {value, norms, result};
}

Tensor leaky_mask_mul(const Tensor& t, const Tensor& y, double negative_slope) {
  const char* op = "leaky_mask_mul";
  check_same_kind(op, "y", y, "t", t);
  Tensor result = new_like(t);  // dense, whatever t is
  if (t.numel() == 0) return result;
  const CudaScope scope(op, "t", t);
  const Tensor a = in_memory_order_of(t, result), mask = in_memory_order_of(y, result);
  check_launch(op, cuda::leaky_mask_mul({a.const_data_ptr(), mask.const_data_ptr(), result.mutable_data_ptr(), t.numel(),
                                         cuda_dtype(op, "t", t), float(negative_slope)},
                                        scope.stream()));
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("interpolate", TORCH_BOX(&interpolate));
  m.impl("penalty", TORCH_BOX(&penalty));
  m.impl("leaky_mask_mul", TORCH_BOX(&leaky_mask_mul));
}

}  // namespace fastgan::ops
