// leaky_mask_mul: out[i] = t[i] * (y[i] > 0 ? 1 : negative_slope); negative_slope 0 is ReLU's mask.
//
// Shapes and order   t, y, out: the same number of elements in the same memory order.
// Tiles              one thread a vector of 16 bytes; elements past the last whole vector by single threads.
// On chip            registers: one vector of each.
// Assumes            dense tensors of one memory order, numel > 0 (asserted by the caller).
// Numerics           float, one rounding at the store.
// Source             Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.
#include "leaky_mask_mul.h"

#include "vec.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kMaskThreads = 256;

template <class T, int V>
__device__ __forceinline__ void mask_mul(const LeakyMaskMulParams& p, int64_t i) {
  float t[V], y[V];
  load<T, V>(static_cast<const T*>(p.t) + i, t);
  load<T, V>(static_cast<const T*>(p.y) + i, y);
#pragma unroll
  for (int v = 0; v < V; ++v) t[v] *= y[v] > 0.f ? 1.f : p.negative_slope;
  store<T, V>(static_cast<T*>(p.out) + i, t);
}

template <class T, int V>
__global__ void __launch_bounds__(kMaskThreads) leaky_mask_mul_kernel(LeakyMaskMulParams p) {
  const int64_t thread = blockIdx.x * static_cast<int64_t>(kMaskThreads) + threadIdx.x;
  const int64_t vectors = p.numel / V;
  if (thread < vectors) {
    mask_mul<T, V>(p, thread * V);
  } else if (thread - vectors < p.numel - vectors * V) {
    mask_mul<T, 1>(p, vectors * V + (thread - vectors));
  }
}

}  // namespace

cudaError_t leaky_mask_mul(const LeakyMaskMulParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(aligned16(p.t) && aligned16(p.y) && aligned16(p.out), [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int64_t threads = p.numel / V + p.numel % V;
      return launch(leaky_mask_mul_kernel<T, V>, dim3(static_cast<unsigned>(ceil_div(threads, kMaskThreads))),
                    dim3(kMaskThreads), stream, p);
    });
  });
}

}  // namespace fastgan::cuda
