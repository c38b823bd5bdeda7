// penalty: norms[n] = sqrt(sum_d grad[n,d]^2),  e[n] = norms[n] - target (one-sided: max(e[n], 0)),
//   penalty = weight / N * sum_n e[n]^2,
//   grad_penalty[n,d] = d penalty / d grad[n,d] = 2 weight / N * e[n] / norms[n] * grad[n,d]   (0 where norms[n] = 0).
//
// Shapes and order   grad, grad_penalty (N, D), a sample's D elements adjacent, in any order both share; norms (N,).
// Tiles              two launches of the same grid, N * P blocks, P = pieces of a sample, 4 vectors a thread:
//                    1. squares: partial[n,p] = sum of squares of piece p of sample n
//                    2. scale:   a block adds its sample's P partial sums in order, so that all blocks of a sample agree,
//                       and writes its piece of grad_penalty; block 0 computes every norm and the penalty as well.
//                    Every element is read twice, the second time from the L2 cache (128 samples of 64 px RGB: 6.3 MB in
//                    float32). One launch instead would be a block a sample, which leaves most of the device idle below 132
//                    samples and holds at most 32768 float32 elements in registers, and would still need all samples for
//                    the penalty itself: a second launch, or a counter that calls share (channel_reduce.cuh says why not).
// On chip            registers: 4 vectors on their way, one sum; shared: 8 partial sums.
// Assumes            dense tensors of one memory order, N, D > 0, N * P < 2^31 (asserted by the caller).
// Numerics           float, sums in a fixed order: pieces of at most 16384 elements by block_reduce, then the pieces
//                    one after the other. A sum of squares above 3e38 (a norm above 1.8e19) overflows to infinity.
// Source             Gulrajani et al., "Improved training of Wasserstein GANs", arXiv 1704.00028, equation 3.
#include "penalty.h"

#include "reduce.cuh"
#include "vec.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kPenaltyThreads = 256;
constexpr int kVectorsPerThread = 4;

int64_t pieces(const PenaltyParams& p, int vector) {
  return ceil_div(p.elements / vector, kPenaltyThreads * kVectorsPerThread);
}

template <class T>
bool vectorised(const PenaltyParams& p) {
  return aligned16(p.grad) && aligned16(p.grad_penalty) && p.elements % kVector<T> == 0;
}

// This block's piece of its sample: elements [begin, end) of grad.
template <int V>
struct Piece {
  int64_t sample, begin, end;

  __device__ int64_t index(int k) const {  // of this thread's k-th vector
    return begin + (k * kPenaltyThreads + static_cast<int>(threadIdx.x)) * V;
  }

  // This thread's vectors; past the end its first one again, or nothing, so that all are on their way at once.
  template <class T>
  __device__ __forceinline__ void load(const void* grad, Vector<T, V> (&in)[kVectorsPerThread]) const {
    if (index(0) >= end) return;
#pragma unroll
    for (int k = 0; k < kVectorsPerThread; ++k) {
      in[k] = load_vector<V>(static_cast<const T*>(grad) + (index(k) < end ? index(k) : index(0)));
    }
  }

  __device__ Piece(const PenaltyParams& p, uint32_t pieces_per_sample) {
    constexpr int64_t size = kPenaltyThreads * kVectorsPerThread * V;
    sample = blockIdx.x / pieces_per_sample;
    const int64_t in_sample = (blockIdx.x % pieces_per_sample) * size;
    begin = sample * p.elements + in_sample;
    end = begin + (size < p.elements - in_sample ? size : p.elements - in_sample);
  }
};

template <class T, int V>
__global__ void __launch_bounds__(kPenaltyThreads) squares_kernel(PenaltyParams p, uint32_t pieces_per_sample) {
  const Piece<V> piece(p, pieces_per_sample);
  Vector<T, V> in[kVectorsPerThread] = {};
  piece.load(p.grad, in);
  Sum sum{0.f};
#pragma unroll
  for (int k = 0; k < kVectorsPerThread; ++k) {
    if (piece.index(k) < piece.end) {
      float x[V];
      to_floats(in[k], x);
#pragma unroll
      for (int v = 0; v < V; ++v) sum.value = fmaf(x[v], x[v], sum.value);
    }
  }
  sum = block_reduce<kPenaltyThreads>(sum);
  if (threadIdx.x == 0) p.workspace[blockIdx.x] = sum.value;
}

__device__ float sample_norm(const PenaltyParams& p, uint32_t pieces_per_sample, int64_t sample) {
  const float* partial = p.workspace + sample * pieces_per_sample;
  float sum = 0.f;
  for (uint32_t piece = 0; piece < pieces_per_sample; ++piece) sum += partial[piece];
  return sqrtf(sum);
}

__device__ float excess(const PenaltyParams& p, float norm) {
  const float e = norm - p.target;
  return p.one_sided && e < 0.f ? 0.f : e;
}

template <class T, int V>
__global__ void __launch_bounds__(kPenaltyThreads) scale_kernel(PenaltyParams p, uint32_t pieces_per_sample) {
  const Piece<V> piece(p, pieces_per_sample);
  Vector<T, V> in[kVectorsPerThread] = {};
  piece.load(p.grad, in);
  const float norm = sample_norm(p, pieces_per_sample, piece.sample);
  const float factor = norm == 0.f ? 0.f : 2.f * p.weight / static_cast<float>(p.samples) * (excess(p, norm) / norm);
#pragma unroll
  for (int k = 0; k < kVectorsPerThread; ++k) {
    if (piece.index(k) < piece.end) {
      float x[V];
      to_floats(in[k], x);
#pragma unroll
      for (int v = 0; v < V; ++v) x[v] *= factor;
      store<T, V>(static_cast<T*>(p.grad_penalty) + piece.index(k), x);
    }
  }
  if (blockIdx.x != 0) return;
  Sum squares{0.f};
  for (int64_t n = threadIdx.x; n < p.samples; n += kPenaltyThreads) {
    const float norm_n = sample_norm(p, pieces_per_sample, n);
    p.norms[n] = norm_n;
    const float e = excess(p, norm_n);
    squares.value = fmaf(e, e, squares.value);
  }
  squares = block_reduce<kPenaltyThreads>(squares);
  if (threadIdx.x == 0) *p.penalty = p.weight * (squares.value / static_cast<float>(p.samples));
}

}  // namespace

int64_t penalty_workspace(const PenaltyParams& p) {
  int64_t blocks = 0;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    blocks = p.samples * pieces(p, vectorised<T>(p) ? kVector<T> : 1);
    return cudaSuccess;
  });
  return blocks * static_cast<int64_t>(sizeof(float));
}

cudaError_t penalty(const PenaltyParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return with_vector_width<T>(vectorised<T>(p), [&](auto width) {
      constexpr int V = decltype(width)::value;
      const auto pieces_per_sample = static_cast<uint32_t>(pieces(p, V));
      const dim3 grid(static_cast<unsigned>(p.samples * pieces_per_sample)), block(kPenaltyThreads);
      FASTGAN_RETURN_IF_ERROR(launch(squares_kernel<T, V>, grid, block, stream, p, pieces_per_sample));
      return launch(scale_kernel<T, V>, grid, block, stream, p, pieces_per_sample);
    });
  });
}

}  // namespace fastgan::cuda
