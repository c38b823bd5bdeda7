// The per-channel vectors of a BatchNorm as CUDA kernels take them.
#pragma once

#include "cuda/bn_act.h"
#include "ops/tensor_cuda.h"

namespace fastgan::ops {

// A (C,) vector as float32, contiguous; t itself where it is that already.
inline Tensor float_vector(const char* op, const char* argument, const Tensor& t, int64_t channels, const Tensor& like) {
  check_vector(op, argument, t, channels, like);
  return dense(t.scalar_type() == ScalarType::Float ? t : torch::stable::to(t, ScalarType::Float));
}

// mean and invstd as float32, gamma and beta in their own type if they share one of the kernels' three. Keeps them alive.
class Channels {
 public:
  Channels(const char* op, const Tensor& like, int64_t channels, const Tensor& mean, const Tensor& invstd,
           const OptionalTensor& gamma, const OptionalTensor& beta)
      : mean_(float_vector(op, "mean", mean, channels, like)), invstd_(float_vector(op, "invstd", invstd, channels, like)) {
    const OptionalTensor& any = gamma.has_value() ? gamma : beta;
    const bool alike = !gamma.has_value() || !beta.has_value() || gamma->scalar_type() == beta->scalar_type();
    const bool as_is = any.has_value() && alike && any->scalar_type() != ScalarType::Double;
    const auto affine = [&](const char* argument, const OptionalTensor& t) -> OptionalTensor {
      if (!t.has_value()) return std::nullopt;
      check_vector(op, argument, *t, channels, like);
      return dense(as_is ? *t : torch::stable::to(*t, ScalarType::Float));
    };
    gamma_ = affine("gamma", gamma);
    beta_ = affine("beta", beta);
    pointers_ = {mean_.const_data_ptr<float>(), invstd_.const_data_ptr<float>(),
                 gamma_.has_value() ? gamma_->const_data_ptr() : nullptr,
                 beta_.has_value() ? beta_->const_data_ptr() : nullptr,
                 as_is ? cuda_dtype(op, "gamma", *any) : cuda::DType::Float32};
  }
  const cuda::BnChannels& pointers() const { return pointers_; }

 private:
  Tensor mean_, invstd_;
  OptionalTensor gamma_, beta_;
  cuda::BnChannels pointers_;
};

}  // namespace fastgan::ops
