// What becomes of the sums of a convolution: z = sum + bias and, of Normalise, activation((z - mean) * gamma * invstd +
// beta), in float. Shared by the convolutions' kernels of every architecture and by the pass that adds up a split
// product.
#pragma once

#include "bn_act_math.cuh"
#include "conv_gemm.h"

namespace fastgan::cuda {

// Is out more than z? BatchNorm's statistics are known in the middle of the launch: channels.mean and invstd point at
// them.
__host__ __device__ inline bool normalises(const ConvGemmParams& p) {
  return p.epilogue == ConvEpilogue::Normalise || p.epilogue == ConvEpilogue::BatchNorm;
}

// Of V neighbouring channels, `first`.. of `channels`; past the last zeros. T: the type of the bias.
template <class T, int V>
__device__ __forceinline__ void load_bias(const ConvGemmParams& p, int channels, int first, float (&bias)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    bias[v] = p.bias && first + v < channels ? to_float(static_cast<const T*>(p.bias)[first + v]) : 0.f;
  }
}
template <int V>
__device__ __forceinline__ void load_affine(const ConvGemmParams& p, int channels, int first,
                                            ChannelAffine (&affine)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    affine[v] = normalises(p) && first + v < channels ? channel_affine(p.channels, first + v) : ChannelAffine{};
  }
}

template <int V>
__device__ __forceinline__ void add_bias(const float (&bias)[V], float (&z)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) z[v] += bias[v];
}

// z <- out. kTanh: whether that activation may come; a kernel that unrolls its epilogue over all its sums leaves it
// out.
template <bool kTanh = true, int V>
__device__ __forceinline__ void finish(const ConvGemmParams& p, const ChannelAffine (&affine)[V], float (&z)[V]) {
  if (!normalises(p)) return;
#pragma unroll
  for (int v = 0; v < V; ++v) z[v] = normalise(z[v], affine[v]);
  switch (p.activation) {
    case Activation::None: break;
    case Activation::Relu: activate<Activation::Relu>(z, 0.f); break;
    case Activation::LeakyRelu: activate<Activation::LeakyRelu>(z, p.negative_slope); break;
    case Activation::Tanh:
      if constexpr (kTanh) activate<Activation::Tanh>(z, 0.f);
      break;
  }
}

}  // namespace fastgan::cuda
