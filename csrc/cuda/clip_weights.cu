// clip_weights: w <- min(max(w, -c), c) for every element of every tensor.
//
// Shapes and order   any number of dense tensors, memory order; the pointers lie in host memory.
// Tiles              multi_tensor.cuh: a block a chunk of 4096 elements, one launch per 197 tensors.
// On chip            registers: one 16-byte vector.
// Assumes            every tensor dense and not overlapping (asserted by the caller). No allocation, no synchronisation.
// Numerics           exact: the comparison is in float, the limit is rounded to the weights' type; NaN stays NaN.
// Source             Arjovsky, Chintala, Bottou, "Wasserstein GAN", arXiv 1701.07875, algorithm 1, line 7.
#include "clip_weights.h"

#include "multi_tensor.cuh"

namespace fastgan::cuda {
namespace {

template <class T>
struct ClipOp {
  float clip_value;

  template <int V>
  __device__ __forceinline__ void apply(const Chunk<1, T>& chunk, int i) const {
    float w[V];
    load<T, V>(chunk.data[0] + i, w);
#pragma unroll
    for (int v = 0; v < V; ++v) w[v] = clamp(w[v], clip_value);
    store<T, V>(chunk.data[0] + i, w);
  }
};

}  // namespace

cudaError_t clip_weights(const ClipWeightsParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return multi_tensor_apply<1, T>(ClipOp<T>{p.clip_value}, {p.weights}, p.numel, p.tensors, stream);
  });
}

}  // namespace fastgan::cuda
