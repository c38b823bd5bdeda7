// What a convolution does with the sums of neighbouring channels before it stores them.
#pragma once

#include "bn_act_math.cuh"
#include "conv_gemm.h"

namespace fastgan::cuda {

// V neighbouring channels of the output, from `first` of `channels` on: add_bias makes z of the sums, finish makes out of z.
template <class T, int V>
struct ChannelEpilogue {
  const ConvGemmParams& p;
  float bias[V];
  ChannelAffine affine[V];

  __device__ __forceinline__ ChannelEpilogue(const ConvGemmParams& params, int first, int channels) : p(params) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = first + v;
      const bool inside = c < channels;
      bias[v] = p.bias && inside ? to_float(static_cast<const T*>(p.bias)[c]) : 0.f;
      affine[v] = normalises() && inside ? channel_affine(p.channels, c) : ChannelAffine{};
    }
  }

  __device__ __forceinline__ bool normalises() const {
    return p.epilogue == ConvEpilogue::Normalise || p.epilogue == ConvEpilogue::BatchNorm;
  }

  __device__ __forceinline__ void add_bias(float (&z)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v) z[v] += bias[v];
  }

  __device__ __forceinline__ void finish(float (&z)[V]) const {
    if (!normalises()) return;
#pragma unroll
    for (int v = 0; v < V; ++v) z[v] = normalise(z[v], affine[v]);
    switch (p.activation) {
      case Activation::None: break;
      case Activation::Relu: activate<Activation::Relu>(z, 0.f); break;
      case Activation::LeakyRelu: activate<Activation::LeakyRelu>(z, p.negative_slope); break;
      case Activation::Tanh: activate<Activation::Tanh>(z, 0.f); break;
    }
  }
};

}  // namespace fastgan::cuda
