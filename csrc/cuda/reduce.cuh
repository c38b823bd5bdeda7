// Reductions in a fixed order: the same input gives the same bits on every run, so no atomics.
//
// An accumulator A is a small struct of floats with `A merge(A, A)` and `A shuffle_down(A, int)`, zero where A{}.
//   warp_reduce    32 lanes -> lane 0, by halving distances
//   block_reduce   THREADS threads -> thread 0: warps first, then warp 0 over the warps' results (one barrier)
//   column_reduce  a block of `lanes` x `rows` threads, each holding V neighbouring columns -> one thread a column
#pragma once

#include "platform.cuh"

namespace fastgan::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;

struct Sum {
  float value;
};

struct SumPair {
  float first, second;
};

__device__ __forceinline__ Sum merge(Sum a, Sum b) { return {a.value + b.value}; }
__device__ __forceinline__ SumPair merge(SumPair a, SumPair b) { return {a.first + b.first, a.second + b.second}; }

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
  if (warp == 0) a = warp_reduce(lane < THREADS / kWarp ? of_warp[lane] : A{});
  return a;
}

// Threads (x, y) of a block of blockDim.x * blockDim.y = THREADS, both powers of two, each hold V accumulators: those of
// columns x * V ... x * V + V - 1 over a share of the rows. Returns, in the threads t < blockDim.x * V, the sum over all rows
// of column column_of_thread<V>(). Every thread first adds V rows of one column, so that the work is spread over all threads
// and one barrier stands before it; where a column then has more than one thread, their sums are halved.
template <int THREADS, int V, class A>
__device__ __forceinline__ A column_reduce(const A (&a)[V]) {
  static_assert(V * V <= THREADS && kWarp * V <= THREADS, "every column has a whole number of threads");
  constexpr int kStride = THREADS + 8;  // columns of one lane in different banks
  FASTGAN_SHARED(A, held, V * kStride);
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, columns = blockDim.x * V;
#pragma unroll
  for (int v = 0; v < V; ++v) held[v * kStride + thread] = a[v];
  __syncthreads();
  const int lane = thread % blockDim.x, v = thread / blockDim.x % V;
  A sum{};
#pragma unroll
  for (int k = 0; k < V; ++k) sum = merge(sum, held[v * kStride + (thread / columns * V + k) * blockDim.x + lane]);
  for (int half = THREADS / 2; half >= columns; half /= 2) {
    __syncthreads();
    held[thread] = sum;
    __syncthreads();
    if (thread < half) sum = merge(sum, held[thread + half]);
  }
  return sum;
}

template <int V>
__device__ __forceinline__ int column_of_thread() {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  return thread % blockDim.x * V + thread / blockDim.x;
}

}  // namespace fastgan::cuda
