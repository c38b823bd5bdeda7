// bn_stats: mean[c] = sum_{n,s} z[n,c,s] / M,  var[c] = sum_{n,s} (z[n,c,s] - mean[c])^2 / M,  M = N * S.
// inverse_std: invstd[c] = 1 / sqrt(var[c] + eps).
//
// Shapes and order   z (N, C, S), NCHW or NHWC as shape.layout says; mean, var, invstd (C,) float.
// Tiles              channel_reduce.cuh: one pass over z, blocks = channels x splits, a second small launch merges splits.
// On chip            registers: one Moments (12 bytes) an accumulator; shared: 8 of them (NCHW), V * 256 (NHWC, <= 24 KiB).
// Assumes            N * C * S > 0 and N * S < 2^31 (asserted by the caller); V = 1 unless rows divide and z is aligned.
// Numerics           float. NCHW: the V neighbours of a vector are reduced in two passes in registers and merged by Chan's
//                    formula; NHWC: Welford's recurrence down the rows. Never E[z^2] - mean^2: a mean of 1e4 standard
//                    deviations costs no digits of the variance beyond those z itself lost. Order fixed by the shape.
// Source             Welford 1962; Chan, Golub, LeVeque 1979; batch normalisation: Ioffe and Szegedy, arXiv 1502.03167.
#include "bn_stats.h"

#include "channel_reduce.cuh"

namespace fastgan::cuda {
namespace {

template <class T>
struct StatsOp {
  using Accumulator = Moments;
  struct Channel {};

  BnStatsParams p;

  __device__ Channel channel(int) const { return {}; }

  template <int V>
  __device__ __forceinline__ void add(Moments& a, const Channel&, int64_t offset) const {
    float x[V];
    load<T, V>(static_cast<const T*>(p.z) + offset, x);
    Moments tile{V, 0.f, 0.f};
#pragma unroll
    for (int v = 0; v < V; ++v) tile.mean += x[v] * (1.f / V);
#pragma unroll
    for (int v = 0; v < V; ++v) tile.m2 += (x[v] - tile.mean) * (x[v] - tile.mean);
    a = merge(a, tile);
  }

  template <int V>
  __device__ __forceinline__ void add_columns(Moments (&a)[V], const Channel (&)[V], int64_t offset) const {
    float x[V];
    load<T, V>(static_cast<const T*>(p.z) + offset, x);
    const float share = 1.f / static_cast<float>(a[0].count + 1);  // all V columns hold the same count
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float delta = x[v] - a[v].mean;
      a[v].count += 1;
      a[v].mean += delta * share;
      a[v].m2 += delta * (x[v] - a[v].mean);
    }
  }

  __device__ void finish(int c, Moments a) const {
    p.mean[c] = a.mean;
    p.var[c] = a.m2 / static_cast<float>(a.count);
  }
};

__global__ void __launch_bounds__(kReduceThreads) inverse_std_kernel(InverseStdParams p) {
  const int64_t c = blockIdx.x * static_cast<int64_t>(kReduceThreads) + threadIdx.x;
  if (c < p.channels) p.invstd[c] = 1.f / sqrtf(p.var[c] + p.eps);
}

template <class T>
bool vectorised(const BnStatsParams& p) {
  return aligned16(p.z) && rows_divide_into_vectors(p.shape, kVector<T>);
}

}  // namespace

int64_t bn_stats_workspace(const BnStatsParams& p) {
  int64_t bytes = 0;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    bytes = channel_reduction_workspace<Moments>(p.shape, vectorised<T>(p) ? kVector<T> : 1);
    return cudaSuccess;
  });
  return bytes;
}

cudaError_t bn_stats(const BnStatsParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(vectorised<T>(p), [&](auto width) {
      return run_channel_reduction<decltype(width)::value>(StatsOp<T>{p}, p.shape, p.workspace, stream);
    });
  });
}

cudaError_t inverse_std(const InverseStdParams& p, cudaStream_t stream) {
  return launch(inverse_std_kernel, dim3(static_cast<unsigned>(ceil_div(p.channels, kReduceThreads))), dim3(kReduceThreads),
                stream, p);
}

}  // namespace fastgan::cuda
