// The ops bn_stats, update_running_stats_, bn_act, bn_act_backward_reduce and bn_act_backward_elemt for any device, over its
// passes (CpuPasses in bn_act_cpu.h says what each does). A device registers them with
//     STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) { register_bn_act<CpuPasses>(m); }
#pragma once

#include "ops/activation.h"
#include "ops/stable.h"

namespace fastgan::ops {

// Unbiased variance / biased variance of `count` values.
inline double bessel_correction(int64_t count) { return double(count) / double(count > 1 ? count - 1 : 1); }

template <class Passes>
struct BnAct {
  static Tensor forward(const Tensor& z, const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                        const OptionalTensor& beta, std::string activation, double negative_slope) {
    Tensor y = new_like(z);
    Passes::normalize(z, mean, invstd, gamma, beta, parse_activation("bn_act", activation), negative_slope, y);
    return y;
  }

  static std::tuple<Tensor, Tensor> backward_reduce(const Tensor& grad_y, const Tensor& y, const Tensor& z,
                                                    const Tensor& mean, const Tensor& invstd, const OptionalTensor& gamma,
                                                    const OptionalTensor& beta, std::string activation,
                                                    double negative_slope) {
    return Passes::backward_reduce(grad_y, y, z, mean, invstd, gamma, beta,
                                   parse_activation("bn_act_backward_reduce", activation), negative_slope);
  }

  static Tensor backward_elemt(const Tensor& grad_y, const Tensor& y, const Tensor& z, const Tensor& mean,
                               const Tensor& invstd, const OptionalTensor& gamma, const OptionalTensor& beta,
                               const Tensor& mean_g, const Tensor& mean_g_xhat, std::string activation,
                               double negative_slope) {
    return Passes::backward_elemt(grad_y, y, z, mean, invstd, gamma, beta, mean_g, mean_g_xhat, /*share=*/1.0,
                                  parse_activation("bn_act_backward_elemt", activation), negative_slope);
  }
};

template <class Passes>
void register_bn_act(torch::stable::detail::StableLibrary& m) {
  m.impl("bn_stats", TORCH_BOX(&Passes::stats));
  m.impl("update_running_stats_", TORCH_BOX(&Passes::update_running_stats_));
  m.impl("bn_act", TORCH_BOX(&BnAct<Passes>::forward));
  m.impl("bn_act_backward_reduce", TORCH_BOX(&BnAct<Passes>::backward_reduce));
  m.impl("bn_act_backward_elemt", TORCH_BOX(&BnAct<Passes>::backward_elemt));
}

}  // namespace fastgan::ops
