// rmsprop_clip, for every element of every tensor; weight w, gradient g, state s (square_avg), m (grad_avg), b (momentum):
//   g <- (maximize ? -g : g) + weight_decay * w
//   s <- alpha * s + (1 - alpha) * g^2
//   m <- m + (1 - alpha) * (g - m);  d = sqrt(s - m^2) + eps      centred
//                                    d = sqrt(s) + eps            else
//   b <- momentum * b + g / d;  w <- w - lr * b                   momentum != 0
//                               w <- w - lr * (g / d)             else
//   w <- min(max(w, -clip_value), clip_value)                     clip_value >= 0
//
// Shapes and order   any number of dense tensors; the lists of one tensor share their memory order.
// Tiles              multi_tensor.cuh: a block a chunk of 4096 elements, one launch per 75 tensors: one for the networks of
//                    most GANs (DCGAN's have 13 or 14). Bytes are the cost: w
//                    and s read and written, g read; torch's step and clamp pass over them about ten times.
// On chip            registers: one 16-byte vector of each list.
// Assumes            dense tensors of one type (asserted by the caller). No allocation, no synchronisation: capturable. A
//                    captured graph repeats the scalars it was captured with, so a learning rate that changes between
//                    replays lies in device memory.
// Numerics           float, in torch's order of operations; float32 differs from torch.optim.RMSprop by contraction of
//                    products and sums alone. 16-bit tensors are rounded once a step, at the store.
// Source             T. Tieleman, G. Hinton, lecture 6.5, 2012; centred: A. Graves, arXiv 1308.0850.
#include "rmsprop_clip.h"

#include "multi_tensor.cuh"

namespace fastgan::cuda {
namespace {

enum List { kWeight, kGrad, kSquareAvg, kGradAvg, kMomentum, kLists };

template <class T>
struct RmspropOp {
  const float* device_lr;
  float lr, alpha, one_minus_alpha, eps, weight_decay, momentum, clip_value;
  bool maximize, centred, has_momentum;

  template <int V>
  __device__ __forceinline__ void apply(const Chunk<kLists, T>& chunk, int i) const {
    float w[V], g[V], s[V], update[V];
    const auto w_vector = load_vector<V>(chunk.data[kWeight] + i);
    const auto g_vector = load_vector<V>(chunk.data[kGrad] + i);
    const auto s_vector = load_vector<V>(chunk.data[kSquareAvg] + i);
    const float rate = device_lr ? *device_lr : lr;
    to_floats(w_vector, w);
    to_floats(g_vector, g);
    to_floats(s_vector, s);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (maximize) g[v] = -g[v];
      g[v] += weight_decay * w[v];
      s[v] = alpha * s[v] + one_minus_alpha * (g[v] * g[v]);
    }
    store<T, V>(chunk.data[kSquareAvg] + i, s);
    if (centred) {
      float m[V];
      load<T, V>(chunk.data[kGradAvg] + i, m);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        m[v] = lerp(m[v], g[v]);
        s[v] -= m[v] * m[v];
      }
      store<T, V>(chunk.data[kGradAvg] + i, m);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) update[v] = g[v] / (sqrtf(s[v]) + eps);
    if (has_momentum) {
      float b[V];
      load<T, V>(chunk.data[kMomentum] + i, b);
#pragma unroll
      for (int v = 0; v < V; ++v) update[v] = b[v] = momentum * b[v] + update[v];
      store<T, V>(chunk.data[kMomentum] + i, b);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      w[v] -= rate * update[v];
      if (clip_value >= 0.f) w[v] = clamp(w[v], clip_value);
    }
    store<T, V>(chunk.data[kWeight] + i, w);
  }

  // torch.lerp's two branches: exact at both ends.
  __device__ __forceinline__ float lerp(float from, float to) const {
    return one_minus_alpha < 0.5f ? from + one_minus_alpha * (to - from) : to - (to - from) * (1.f - one_minus_alpha);
  }
};

}  // namespace

cudaError_t rmsprop_clip(const RmspropClipParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    const RmspropOp<T> op{p.device_lr,
                          static_cast<float>(p.lr),
                          static_cast<float>(p.alpha),
                          static_cast<float>(1.0 - p.alpha),
                          static_cast<float>(p.eps),
                          static_cast<float>(p.weight_decay),
                          static_cast<float>(p.momentum),
                          static_cast<float>(p.clip_value),
                          p.maximize,
                          p.grad_avgs != nullptr,
                          p.momentum_buffers != nullptr};
    return multi_tensor_apply<kLists, T>(op, {p.weights, p.grads, p.square_avgs, p.grad_avgs, p.momentum_buffers}, p.numel,
                                         p.tensors, stream);
  });
}

}  // namespace fastgan::cuda
