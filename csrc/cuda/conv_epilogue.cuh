// What becomes of the sums of a convolution: z = sum + bias and, of Normalise, activation((z - mean) * gamma * invstd +
// beta), in float. Shared by the convolutions' kernels of every architecture and by the pass that adds up a split
// product.
#pragma once

#include "bn_act_math.cuh"
#include "conv_gemm.h"

namespace fastgan::cuda {

__host__ __device__ inline bool normalises(const ConvGemmParams& p) { return p.epilogue == ConvEpilogue::Normalise; }

// What one channel of the output adds to its sums and makes of z.
struct ChannelTerms {
  float bias;
  ChannelAffine affine;  // where it is normalised
};

// Of channels `first`.., those past the last being anything; T: the type of the bias.
template <class T, int V>
__device__ __forceinline__ void load_terms(const ConvGemmParams& p, int channels, int first, ChannelTerms (&terms)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = first + v;
    const bool inside = c < channels;
    terms[v].bias = p.bias && inside ? to_float(static_cast<const T*>(p.bias)[c]) : 0.f;
    terms[v].affine = normalises(p) && inside ? channel_affine(p.channels, c) : ChannelAffine{};
  }
}

template <int V>
__device__ __forceinline__ void add_bias(const ChannelTerms (&terms)[V], float (&z)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) z[v] += terms[v].bias;
}

// z <- out. kTanh: whether that activation may come; a kernel that unrolls its epilogue over all its sums leaves it
// out.
template <bool kTanh = true, int V>
__device__ __forceinline__ void finish(const ConvGemmParams& p, const ChannelTerms (&terms)[V], float (&z)[V]) {
  if (!normalises(p)) return;
#pragma unroll
  for (int v = 0; v < V; ++v) z[v] = normalise(z[v], terms[v].affine);
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
