// interpolate: out[n,d] = epsilon[n] * real[n,d] + (1 - epsilon[n]) * fake[n,d].
//
// Shapes and order   real, fake, out (N, D), a sample's D elements adjacent, in an order all share; epsilon (N,).
// Tiles              one thread a vector of 16 bytes, in memory order; the sample by one division (Divider). Two loads of
//                    each of 2048 threads are 64 KiB in flight on a multiprocessor.
// On chip            registers: one vector of each.
// Assumes            dense tensors of one memory order, N > 0, 0 < D < 2^30 (asserted by the caller).
// Numerics           float, one rounding at the store.
// Source             Gulrajani et al., "Improved training of Wasserstein GANs", arXiv 1704.00028, algorithm 1, line 6.
#include "interpolate.h"

#include "vec.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kInterpolateThreads = 256;

template <class T, int V>
__global__ void __launch_bounds__(kInterpolateThreads)
    interpolate_kernel(InterpolateParams p, int64_t first_sample, Divider vectors_per_sample, uint32_t vectors) {
  const uint32_t i = blockIdx.x * kInterpolateThreads + threadIdx.x;
  if (i >= vectors) return;
  const int64_t offset = first_sample * p.elements + static_cast<int64_t>(i) * V;
  const auto real_vector = load_vector<V>(static_cast<const T*>(p.real) + offset);
  const auto fake_vector = load_vector<V>(static_cast<const T*>(p.fake) + offset);
  // behind the vectors: its type is known at run time, so it is waited for where it is read
  const float epsilon = load_as_float(p.epsilon, p.epsilon_dtype, first_sample + vectors_per_sample.quotient(i));
  float real[V], fake[V];
  to_floats(real_vector, real);
  to_floats(fake_vector, fake);
#pragma unroll
  for (int v = 0; v < V; ++v) real[v] = epsilon * real[v] + (1.f - epsilon) * fake[v];
  store<T, V>(static_cast<T*>(p.out) + offset, real);
}

}  // namespace

cudaError_t interpolate(const InterpolateParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    const bool vectorise = aligned16(p.real) && aligned16(p.fake) && aligned16(p.out) && p.elements % kVector<T> == 0;
    return with_vector_width<T>(vectorise, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int64_t sample = p.elements / V;
      const int64_t fitting = int64_t{FASTGAN_MAX_VECTORS_PER_LAUNCH} / sample;
      const int64_t samples_per_launch = fitting < 1 ? 1 : fitting;
      for (int64_t n = 0; n < p.samples; n += samples_per_launch) {
        const int64_t samples = samples_per_launch < p.samples - n ? samples_per_launch : p.samples - n;
        FASTGAN_RETURN_IF_ERROR(launch(interpolate_kernel<T, V>,
                                       dim3(static_cast<unsigned>(ceil_div(samples * sample, kInterpolateThreads))),
                                       dim3(kInterpolateThreads), stream, p, n, Divider(static_cast<uint32_t>(sample)),
                                       static_cast<uint32_t>(samples * sample)));
      }
      return cudaSuccess;
    });
  });
}

}  // namespace fastgan::cuda
