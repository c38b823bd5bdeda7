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
template <int V>
__device__ __forceinline__ void activate(float (&u)[V], Activation activation, float negative_slope) {
  switch (activation) {  // the same for the whole grid
    case Activation::None: break;
    case Activation::Relu:
#pragma unroll
      for (int v = 0; v < V; ++v) u[v] = u[v] < 0.f ? 0.f : u[v];
      break;
    case Activation::LeakyRelu:
#pragma unroll
      for (int v = 0; v < V; ++v) u[v] = u[v] > 0.f ? u[v] : u[v] * negative_slope;
      break;
    case Activation::Tanh:
#pragma unroll
      for (int v = 0; v < V; ++v) u[v] = tanhf(u[v]);
      break;
  }
}

// grad <- grad * activation'(u), given y = activation(u) for Tanh and u for the others.
template <int V>
__device__ __forceinline__ void activate_backward(float (&grad)[V], const float (&u_or_y)[V], Activation activation,
                                                  float negative_slope) {
  switch (activation) {
    case Activation::None: break;
    case Activation::Relu:
#pragma unroll
      for (int v = 0; v < V; ++v) grad[v] = u_or_y[v] <= 0.f ? 0.f : grad[v];
      break;
    case Activation::LeakyRelu:
#pragma unroll
      for (int v = 0; v < V; ++v) grad[v] = u_or_y[v] > 0.f ? grad[v] : grad[v] * negative_slope;
      break;
    case Activation::Tanh:
#pragma unroll
      for (int v = 0; v < V; ++v) grad[v] *= 1.f - u_or_y[v] * u_or_y[v];
      break;
  }
}

}  // namespace fastgan::cuda
