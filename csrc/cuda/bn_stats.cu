// bn_stats: mean[c] = sum_{n,s} z[n,c,s] / M,  var[c] = sum_{n,s} (z[n,c,s] - mean[c])^2 / M,  M = N * S.
//           and, where asked for, invstd[c] = 1 / sqrt(var[c] + eps), which inverse_std computes of a given var.
// running_stats: r[c] = (1 - momentum) * r[c] + momentum * v[c], with v the mean, and correction * (invstd^-2 - eps).
//
// Shapes and order   z (N, C, S), NCHW or NHWC as shape.layout says; mean, var, invstd (C,) float.
// Tiles              channel_reduce.cuh: one pass over z, blocks = channels x splits, a second small launch merges splits.
// On chip            registers: a pivot and two sums a channel, 4 vectors on their way; shared: V * 264 pairs (<= 17 KiB).
// Assumes            N * C * S > 0, N * S < 2^31, C * S < 2^30 (asserted by the caller); V = 1 unless rows divide and z is
//                    aligned.
// Numerics           float. A block takes for each channel a pivot K near the mean, the average of 4 of its elements, and adds
//                    s1 = sum (z - K), s2 = sum (z - K)^2: no division an element, and nothing to merge but sums. Its mean is
//                    K + s1 / n, its squared deviations are s2 - s1^2 / n, which loses a factor of 1 + (K - mean)^2 / var
//                    of the accuracy (5 / 4 expected), however far the mean is from zero; splits are merged in the same
//                    way about the mean of the first. Order fixed by the shape.
// Source             shifted data: T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance",
//                    1983; batch normalisation: Ioffe and Szegedy, arXiv 1502.03167.
#include "bn_stats.h"

#include "channel_reduce.cuh"
#include "moments.cuh"

namespace fastgan::cuda {
namespace {

template <class T>
struct StatsOp : MomentsOp {
  static constexpr int kUnroll = kLoadsInFlight;
  template <int V>
  using Inputs = Vector<T, V>;

  const void* z;

  explicit StatsOp(const BnStatsParams& p) : MomentsOp{p.mean, p.var, p.invstd, p.eps}, z(p.z) {}

  template <class Sample>
  __device__ __forceinline__ Channel channel(int, const Sample& sample) const {
    float sum = 0.f;
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) sum += to_float(static_cast<const T*>(z)[sample(k)]);
    return {sum * (1.f / kUnroll)};
  }

  template <int V>
  __device__ __forceinline__ Inputs<V> load(int64_t offset) const {
    return load_vector<V>(static_cast<const T*>(z) + offset);
  }

  // sums of d and d^2, d = z - pivot
  template <int V, int K>
  __device__ __forceinline__ void add(SumPair (&sum)[K], const Channel (&channel)[K], const Vector<T, V>& in) const {
    float d[V];
    to_floats(in, d);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      SumPair& s = sum[K == 1 ? 0 : v];
      d[v] -= channel[K == 1 ? 0 : v].pivot;
      s = {s.first + d[v], fmaf(d[v], d[v], s.second)};
    }
  }
};

__global__ void __launch_bounds__(kChannelThreads) inverse_std_kernel(InverseStdParams p) {
  const int64_t c = blockIdx.x * static_cast<int64_t>(kChannelThreads) + threadIdx.x;
  if (c < p.channels) p.invstd[c] = inverse_std_of(p.var[c], p.eps);
}

template <class T>
__global__ void __launch_bounds__(kChannelThreads) running_stats_kernel(RunningStatsParams p) {
  const int64_t c = blockIdx.x * static_cast<int64_t>(kChannelThreads) + threadIdx.x;
  if (c >= p.channels) return;
  const auto average = [&](void* running, float value) {
    T& r = static_cast<T*>(running)[c];
    r = from_float<T>(fmaf(1.f - p.momentum, to_float(r), p.momentum * value));
  };
  average(p.running_mean, p.mean[c]);
  average(p.running_var, p.correction * (1.f / (p.invstd[c] * p.invstd[c]) - p.eps));
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
    return with_vector_width<T>(vectorised<T>(p), [&](auto width) {
      bytes = channel_reduction_workspace<decltype(width)::value>(StatsOp<T>(p), p.shape);
      return cudaSuccess;
    });
  });
  return bytes;
}

cudaError_t bn_stats(const BnStatsParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(vectorised<T>(p), [&](auto width) {
      return run_channel_reduction<decltype(width)::value>(StatsOp<T>(p), p.shape, p.workspace, stream);
    });
  });
}

cudaError_t inverse_std(const InverseStdParams& p, cudaStream_t stream) {
  return launch(inverse_std_kernel, dim3(static_cast<unsigned>(ceil_div(p.channels, kChannelThreads))), dim3(kChannelThreads),
                stream, p);
}

cudaError_t running_stats(const RunningStatsParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    return launch(running_stats_kernel<decltype(element)>, dim3(static_cast<unsigned>(ceil_div(p.channels, kChannelThreads))),
                  dim3(kChannelThreads), stream, p);
  });
}

}  // namespace fastgan::cuda
