// Backward of y = act(u), u = (z - mean) * (gamma * invstd) + beta; with g = grad_y * act'(u), xhat = (z - mean) * invstd:
//   reduce   sum_g[c] = sum_{n,s} g        (= grad_beta)      sum_g_xhat[c] = sum_{n,s} g * xhat     (= grad_gamma)
//   elemt    grad_z = gamma * invstd * (g - mean_g - xhat * mean_g_xhat)
// where mean_g = sum_g / (N S), mean_g_xhat = sum_g_xhat / (N S) under batch statistics and 0 under running ones.
//
// Shapes and order   grad_y, y, z, grad_z (N, C, S), NCHW or NHWC as shape.layout says; the rest (C,).
// Tiles              channel_reduce.cuh and channel_map.cuh. Each pass reads grad_y and z once (tanh: y too).
// On chip            registers: 2 vectors of each tensor on their way, the channels' parameters (NHWC: V channels'), two
//                    sums a channel; shared: the parameters of 256 channels, V * 264 pairs of sums (<= 20 KiB).
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

// V elements of each tensor that a pass reads; y for Tanh alone.
template <class T, Activation A, int V>
struct BackwardInputs {
  Vector<T, V> grad_y, z;
};
template <class T, int V>
struct BackwardInputs<T, Activation::Tanh, V> {
  Vector<T, V> grad_y, z, y;
};

template <class T, Activation A>
struct BackwardOp {
  static constexpr int kUnroll = A == Activation::Tanh ? 1 : kLoadsInFlight / 2;
  template <int V>
  using Inputs = BackwardInputs<T, A, V>;

  template <int V>
  static __device__ __forceinline__ Inputs<V> load(const BnActBackwardParams& p, int64_t offset) {
    Inputs<V> in;
    in.grad_y = load_vector<V>(static_cast<const T*>(p.grad_y) + offset);
    in.z = load_vector<V>(static_cast<const T*>(p.z) + offset);
    if constexpr (A == Activation::Tanh) in.y = load_vector<V>(static_cast<const T*>(p.y) + offset);
    return in;
  }

  // z, and g = grad_y * act'(u); `affine(v)` is the ChannelAffine of element v.
  template <int V, class Affine>
  static __device__ __forceinline__ void unpack(const Inputs<V>& in, float negative_slope, const Affine& affine,
                                                float (&g)[V], float (&z)[V]) {
    float u_or_y[V];
    to_floats(in.grad_y, g);
    to_floats(in.z, z);
    if constexpr (A == Activation::Tanh) {
      to_floats(in.y, u_or_y);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) u_or_y[v] = normalise(z[v], affine(v));
    }
    activate_backward<A>(g, u_or_y, negative_slope);
  }
};

template <class T, Activation A>
struct BackwardReduceOp {
  using Common = BackwardOp<T, A>;
  static constexpr int kUnroll = Common::kUnroll;
  using Channel = ChannelAffine;
  using Partial = SumPair;
  template <int V>
  using Inputs = typename Common::template Inputs<V>;

  BnActBackwardReduceParams p;

  template <class Sample>
  __device__ Channel channel(int c, const Sample&) const {
    return channel_affine(p.channels, c);
  }

  template <int V>
  __device__ __forceinline__ Inputs<V> load(int64_t offset) const {
    return Common::template load<V>(p, offset);
  }

  template <int V, int K>
  __device__ __forceinline__ void add(SumPair (&sum)[K], const Channel (&channel)[K],
                                      const BackwardInputs<T, A, V>& in) const {
    float g[V], z[V];
    Common::template unpack<V>(in, p.negative_slope, [&](int v) { return channel[K == 1 ? 0 : v]; }, g, z);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      SumPair& s = sum[K == 1 ? 0 : v];
      s = {s.first + g[v], fmaf(g[v], z[v] - channel[K == 1 ? 0 : v].mean, s.second)};
    }
  }

  __device__ SumPair close(SumPair sum, const Channel&, int64_t) const { return sum; }
  __device__ Channel centre(const SumPair&) const { return {}; }
  __device__ SumPair open(const SumPair& split, const Channel&) const { return split; }

  __device__ void finish(int c, SumPair sum) const {
    p.sum_g[c] = sum.first;
    p.sum_g_xhat[c] = sum.second * channel_invstd(p.channels, c);
  }
};

template <class T, Activation A>
struct BackwardElemtOp {
  using Common = BackwardOp<T, A>;
  static constexpr int kUnroll = Common::kUnroll;
  template <int V>
  using Inputs = typename Common::template Inputs<V>;

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

  template <int V>
  __device__ __forceinline__ Inputs<V> load(int64_t offset) const {
    return Common::template load<V>(p, offset);
  }

  template <int V, int K>
  __device__ __forceinline__ void map(const Channel (&channel)[K], const BackwardInputs<T, A, V>& in,
                                      int64_t offset) const {
    float g[V], z[V];
    Common::template unpack<V>(in, p.negative_slope, [&](int v) { return channel[K == 1 ? 0 : v].affine; }, g, z);
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

// Calls body(op, VectorWidth<V>) for the operation and the vector width of these parameters.
template <class Body>
cudaError_t with_reduce_op(const BnActBackwardReduceParams& p, Body&& body) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(vectorised<T>(p), [&](auto width) {
      return with_activation(p.activation, [&](auto activation) {
        return body(BackwardReduceOp<T, decltype(activation)::value>{p}, width);
      });
    });
  });
}

}  // namespace

int64_t bn_act_backward_reduce_workspace(const BnActBackwardReduceParams& p) {
  int64_t bytes = 0;
  with_reduce_op(p, [&](const auto& op, auto width) {
    bytes = channel_reduction_workspace<decltype(width)::value>(op, p.shape);
    return cudaSuccess;
  });
  return bytes;
}

cudaError_t bn_act_backward_reduce(const BnActBackwardReduceParams& p, cudaStream_t stream) {
  return with_reduce_op(p, [&](const auto& op, auto width) {
    return run_channel_reduction<decltype(width)::value>(op, p.shape, p.workspace, stream);
  });
}

cudaError_t bn_act_backward_elemt(const BnActBackwardElemtParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(vectorised<T>(p) && aligned16(p.grad_z), [&](auto width) {
      return with_activation(p.activation, [&](auto activation) {
        return run_channel_map<decltype(width)::value>(BackwardElemtOp<T, decltype(activation)::value>{p}, p.shape, stream);
      });
    });
  });
}

}  // namespace fastgan::cuda
