// u = (z - mean) * scale + beta and the activations, written once for bn_act and its backward: both must find the same
// sign of u, or a gradient passes where the output was cut.
#pragma once

#include "bn_act.h"
#include "vec.cuh"

namespace fastgan::cuda {

struct ChannelAffine {
  float mean, scale, beta;
};

__device__ __forceinline__ float channel_invstd(const BnChannels& p, int c) { return p.invstd ? p.invstd[c] : 1.f; }

__device__ __forceinline__ ChannelAffine channel_affine(const BnChannels& p, int c) {
  const float gamma = p.gamma ? load_as_float(p.gamma, p.affine_dtype, c) : 1.f;
  const float beta = p.beta ? load_as_float(p.beta, p.affine_dtype, c) : 0.f;
  return {p.mean ? p.mean[c] : 0.f, gamma * channel_invstd(p, c), beta};
}

// Subtracting the mean first keeps the digits that z * scale + (beta - mean * scale) loses where |mean| >> 1 / invstd.
__device__ __forceinline__ float normalise(float z, const ChannelAffine& a) { return fmaf(z - a.mean, a.scale, a.beta); }

// u <- activation(u). NaN stays NaN, as in torch.
template <Activation A, int V>
__device__ __forceinline__ void activate(float (&u)[V], float negative_slope) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if constexpr (A == Activation::Relu) u[v] = u[v] < 0.f ? 0.f : u[v];
    if constexpr (A == Activation::LeakyRelu) u[v] = u[v] > 0.f ? u[v] : u[v] * negative_slope;
    if constexpr (A == Activation::Tanh) u[v] = tanhf(u[v]);
  }
}

// grad <- grad * activation'(u), given y = activation(u) for Tanh and u for the others.
template <Activation A, int V>
__device__ __forceinline__ void activate_backward(float (&grad)[V], const float (&u_or_y)[V], float negative_slope) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if constexpr (A == Activation::Relu) grad[v] = u_or_y[v] <= 0.f ? 0.f : grad[v];
    if constexpr (A == Activation::LeakyRelu) grad[v] = u_or_y[v] > 0.f ? grad[v] : grad[v] * negative_slope;
    if constexpr (A == Activation::Tanh) grad[v] *= 1.f - u_or_y[v] * u_or_y[v];
  }
}

template <Activation A>
struct ActivationConstant {
  static constexpr Activation value = A;
};

// Calls body(ActivationConstant<activation>{}): in a kernel that switches at run time, every activation would take the
// registers of the longest, and a branch a vector would stand between the loads and their use.
template <class Body>
cudaError_t with_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::None: return body(ActivationConstant<Activation::None>{});
    case Activation::Relu: return body(ActivationConstant<Activation::Relu>{});
    case Activation::LeakyRelu: return body(ActivationConstant<Activation::LeakyRelu>{});
    case Activation::Tanh: return body(ActivationConstant<Activation::Tanh>{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace fastgan::cuda
