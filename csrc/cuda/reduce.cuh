// Reductions in a fixed order: the same input gives the same bits on every run, so no atomics.
//
// An accumulator A is a small struct with `A merge(A, A)`, `A zero<A>()` and trivial construction.
//   warp_reduce   32 lanes -> lane 0, by halving distances
//   block_reduce  THREADS threads -> thread 0: warps first, then warp 0 over the warps' results (one barrier)
//   rows_reduce   a block of `lanes` x `rows` threads, each holding V accumulators -> row 0, by halving rows
#pragma once

#include "platform.cuh"

namespace fastgan::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;

// Count, mean and sum of squared deviations of some numbers (B. P. Welford, Technometrics 4(3), 1962).
struct Moments {
  int count;
  float mean, m2;
};

struct Sum {
  float value;
};

struct SumPair {
  float first, second;
};

template <class A>
__device__ __forceinline__ A zero() {
  return A{};
}

// T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
__device__ __forceinline__ Moments merge(Moments a, Moments b) {
  const int count = a.count + b.count;
  const float share = count > 0 ? static_cast<float>(b.count) / static_cast<float>(count) : 0.f;
  const float delta = b.mean - a.mean;
  return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * share * static_cast<float>(a.count)};
}
__device__ __forceinline__ Sum merge(Sum a, Sum b) { return {a.value + b.value}; }
__device__ __forceinline__ SumPair merge(SumPair a, SumPair b) { return {a.first + b.first, a.second + b.second}; }

__device__ __forceinline__ Moments shuffle_down(Moments a, int distance) {
  return {__shfl_down_sync(kFullMask, a.count, distance), __shfl_down_sync(kFullMask, a.mean, distance),
          __shfl_down_sync(kFullMask, a.m2, distance)};
}
__device__ __forceinline__ Sum shuffle_down(Sum a, int distance) {
  return {__shfl_down_sync(kFullMask, a.value, distance)};
}
__device__ __forceinline__ SumPair shuffle_down(SumPair a, int distance) {
  return {__shfl_down_sync(kFullMask, a.first, distance), __shfl_down_sync(kFullMask, a.second, distance)};
}

// All 32 lanes take part; the result is valid in lane 0.
template <class A>
__device__ __forceinline__ A warp_reduce(A a) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) a = merge(a, shuffle_down(a, distance));
  return a;
}

// All THREADS threads of a one-dimensional block take part, once a kernel; the result is valid in thread 0.
template <int THREADS, class A>
__device__ __forceinline__ A block_reduce(A a) {
  static_assert(THREADS % kWarp == 0 && THREADS <= kWarp * kWarp, "a block is whole warps, at most one warp of them");
  FASTGAN_SHARED(A, of_warp, THREADS / kWarp);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  a = warp_reduce(a);
  if (lane == 0) of_warp[warp] = a;
  __syncthreads();
  if (warp == 0) a = warp_reduce(lane < THREADS / kWarp ? of_warp[lane] : zero<A>());
  return a;
}

// Threads (x, y) of a block of blockDim.x * blockDim.y = THREADS, blockDim.y a power of two, each hold V accumulators
// of V columns; the sums over y are valid where threadIdx.y == 0. Shared memory: V * THREADS accumulators.
template <int THREADS, int V, class A>
__device__ __forceinline__ void rows_reduce(A (&a)[V]) {
  FASTGAN_SHARED(A, held, V * THREADS);
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int v = 0; v < V; ++v) held[v * THREADS + thread] = a[v];
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        a[v] = merge(a[v], held[v * THREADS + thread + half * blockDim.x]);
        held[v * THREADS + thread] = a[v];
      }
    }
  }
}

}  // namespace fastgan::cuda
