// bn_act: y = act(u),  u[n,c,s] = (z[n,c,s] - mean[c]) * (gamma[c] * invstd[c]) + beta[c];
// act: identity, max(u, 0), u > 0 ? u : negative_slope * u, tanh. Without statistics it is act(z + bias).
//
// Shapes and order   z, y (N, C, S), NCHW or NHWC as shape.layout says, y may be z; mean, invstd, gamma, beta (C,).
// Tiles              channel_map.cuh. Bytes are the cost: z read once, y written once, 16 bytes a thread and access.
// On chip            registers only: a vector, its channel's parameters (NHWC: V channels' parameters).
// Assumes            N * C * S > 0 and C * S < 2^30 (asserted by the caller); V = 1 unless rows divide, pointers aligned.
// Numerics           float, one rounding at the store. u is computed by bn_act_math.cuh, as the backward computes it.
// Source             Ioffe and Szegedy, arXiv 1502.03167, algorithm 1.
#include "bn_act.h"

#include "bn_act_math.cuh"
#include "channel_map.cuh"

namespace fastgan::cuda {
namespace {

template <class T, Activation A>
struct BnActOp {
  static constexpr int kUnroll = A == Activation::Tanh ? 1 : kLoadsInFlight;  // unrolled, tanhf is a lot of code
  using Channel = ChannelAffine;
  template <int V>
  using Inputs = Vector<T, V>;

  BnActParams p;

  __device__ Channel channel(int c) const { return channel_affine(p.channels, c); }

  template <int V>
  __device__ __forceinline__ Inputs<V> load(int64_t offset) const {
    return load_vector<V>(static_cast<const T*>(p.z) + offset);
  }

  template <int V, int K>
  __device__ __forceinline__ void map(const Channel (&channel)[K], const Vector<T, V>& in, int64_t offset) const {
    float u[V];
    to_floats(in, u);
#pragma unroll
    for (int v = 0; v < V; ++v) u[v] = normalise(u[v], channel[K == 1 ? 0 : v]);
    activate<A>(u, p.negative_slope);
    store<T, V>(static_cast<T*>(p.y) + offset, u);
  }

  BnActOp from(int64_t elements) const {
    BnActOp moved = *this;
    moved.p.z = static_cast<const T*>(p.z) + elements;
    moved.p.y = static_cast<T*>(p.y) + elements;
    return moved;
  }
};

}  // namespace

cudaError_t bn_act(const BnActParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    const bool vectorise = aligned16(p.z) && aligned16(p.y) && rows_divide_into_vectors(p.shape, kVector<T>);
    return with_vector_width<T>(vectorise, [&](auto width) {
      return with_activation(p.activation, [&](auto activation) {
        return run_channel_map<decltype(width)::value>(BnActOp<T, decltype(activation)::value>{p}, p.shape, stream);
      });
    });
  });
}

}  // namespace fastgan::cuda
