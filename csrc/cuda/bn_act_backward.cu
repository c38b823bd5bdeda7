// Backward of y = act(u), u = (z - mean) * (gamma * invstd) + beta; with g = grad_y * act'(u), xhat = (z - mean) * invstd:
//   reduce   sum_g[c] = sum_{n,s} g        (= grad_beta)      sum_g_xhat[c] = sum_{n,s} g * xhat     (= grad_gamma)
//   elemt    grad_z = gamma * invstd * (g - mean_g - xhat * mean_g_xhat)
// where mean_g = sum_g / (N S), mean_g_xhat = sum_g_xhat / (N S) under batch statistics and 0 under running ones.
//
// Shapes and order   grad_y, y, z, grad_z (N, C, S), NCHW or NHWC as shape.layout says; the rest (C,).
// Tiles              channel_reduce.cuh and channel_map.cuh. Each pass reads grad_y and z once (tanh: y too).
// On chip            registers: one vector a tensor, the channel's parameters, two sums; shared: V * 256 pairs (16 KiB).
// Assumes            as bn_act; N * S < 2^31 for reduce.
// Numerics           float. The sums are of g and g * (z - mean), invstd multiplied in at the end; fixed order. act'(u)
//                    is taken from u recomputed by bn_act_math.cuh, because a rounded y may be 0 where u > 0.
// Source             Ioffe and Szegedy, arXiv 1502.03167, section 3.
#include "bn_act_backward.h"

#include "bn_act_math.cuh"
#include "channel_map.cuh"
#include "channel_reduce.cuh"

namespace fastgan::cuda {
namespace {

// V elements at `offset`: z, and g = grad_y * act'(u). K as in channel_map.cuh.
template <class T, int V, int K>
__device__ __forceinline__ void load_g(const BnActBackwardParams& p, const ChannelAffine (&affine)[K], int64_t offset,
                                       float (&g)[V], float (&z)[V]) {
  load<T, V>(static_cast<const T*>(p.grad_y) + offset, g);
  load<T, V>(static_cast<const T*>(p.z) + offset, z);
  float u_or_y[V];
  if (p.activation == Activation::Tanh) {
    load<T, V>(static_cast<const T*>(p.y) + offset, u_or_y);
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) u_or_y[v] = normalise(z[v], affine[K == 1 ? 0 : v]);
  }
  activate_backward(g, u_or_y, p.activation, p.negative_slope);
}

template <class T>
struct BackwardReduceOp {
  using Accumulator = SumPair;
  using Channel = ChannelAffine;

  BnActBackwardReduceParams p;

  __device__ Channel channel(int c) const { return channel_affine(p.channels, c); }

  template <int V>
  __device__ __forceinline__ void add(SumPair& sum, const Channel& channel, int64_t offset) const {
    const Channel one[1] = {channel};
    float g[V], z[V];
    load_g<T, V>(p, one, offset, g, z);
#pragma unroll
    for (int v = 0; v < V; ++v) sum = {sum.first + g[v], fmaf(g[v], z[v] - channel.mean, sum.second)};
  }

  template <int V>
  __device__ __forceinline__ void add_columns(SumPair (&sum)[V], const Channel (&channel)[V], int64_t offset) const {
    float g[V], z[V];
    load_g<T, V>(p, channel, offset, g, z);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] = {sum[v].first + g[v], fmaf(g[v], z[v] - channel[v].mean, sum[v].second)};
  }

  __device__ void finish(int c, SumPair sum) const {
    p.sum_g[c] = sum.first;
    p.sum_g_xhat[c] = sum.second * channel_invstd(p.channels, c);
  }
};

template <class T>
struct BackwardElemtOp {
  struct Channel {
    ChannelAffine affine;
    float mean_g, slope;  // grad_z = scale * (g - mean_g - (z - mean) * slope)
  };

  BnActBackwardElemtParams p;

  __device__ Channel channel(int c) const {
    const float mean_g = p.g ? p.g[c] * p.sum_weight : 0.f;
    const float mean_g_xhat = p.g_xhat ? p.g_xhat[c] * p.sum_weight : 0.f;
    return {channel_affine(p.channels, c), mean_g, mean_g_xhat * channel_invstd(p.channels, c)};
  }

  template <int V, int K>
  __device__ __forceinline__ void map(const Channel (&channel)[K], int64_t offset) const {
    ChannelAffine affine[K];
#pragma unroll
    for (int k = 0; k < K; ++k) affine[k] = channel[k].affine;
    float g[V], z[V];
    load_g<T, V>(p, affine, offset, g, z);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const Channel& a = channel[K == 1 ? 0 : v];
      g[v] = a.affine.scale * (g[v] - a.mean_g - (z[v] - a.affine.mean) * a.slope);
    }
    store<T, V>(static_cast<T*>(p.grad_z) + offset, g);
  }

  BackwardElemtOp from(int64_t elements) const {
    BackwardElemtOp moved = *this;
    moved.p.grad_y = static_cast<const T*>(p.grad_y) + elements;
    moved.p.y = static_cast<const T*>(p.y) + elements;
    moved.p.z = static_cast<const T*>(p.z) + elements;
    moved.p.grad_z = static_cast<T*>(p.grad_z) + elements;
    return moved;
  }
};

template <class T>
bool vectorised(const BnActBackwardParams& p) {
  return aligned16(p.grad_y) && aligned16(p.y) && aligned16(p.z) && rows_divide_into_vectors(p.shape, kVector<T>);
}

}  // namespace

int64_t bn_act_backward_reduce_workspace(const BnActBackwardReduceParams& p) {
  int64_t bytes = 0;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    bytes = channel_reduction_workspace<SumPair>(p.shape, vectorised<T>(p) ? kVector<T> : 1);
    return cudaSuccess;
  });
  return bytes;
}

cudaError_t bn_act_backward_reduce(const BnActBackwardReduceParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(vectorised<T>(p), [&](auto width) {
      return run_channel_reduction<decltype(width)::value>(BackwardReduceOp<T>{p}, p.shape, p.workspace, stream);
    });
  });
}

cudaError_t bn_act_backward_elemt(const BnActBackwardElemtParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(vectorised<T>(p) && aligned16(p.grad_z), [&](auto width) {
      return run_channel_map<decltype(width)::value>(BackwardElemtOp<T>{p}, p.shape, stream);
    });
  });
}

}  // namespace fastgan::cuda
