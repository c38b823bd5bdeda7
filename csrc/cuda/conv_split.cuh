// A convolution's product cut along K into splits, where it has fewer tiles than the device has multiprocessors: how
// many splits, which steps each takes, and the second launch that adds their float sums up in order and does the
// epilogue. Shared by the kernels of every architecture.
#pragma once

#include <algorithm>

#include "bn_stats.h"
#include "conv_epilogue.cuh"

// Multiprocessors counted on; results depend on this, not on the device that runs. Tests lower it, so that small images
// take all paths.
#ifndef FASTGAN_CONV_BLOCKS
#define FASTGAN_CONV_BLOCKS 132
#endif

namespace fastgan::cuda {

constexpr int kPassThreads = 256;
constexpr int kStepsASplit = 8;  // at least: the ring fills and empties once a split

// Into how many splits of K the blocks of a launch are cut, so that there are FASTGAN_CONV_BLOCKS of them.
inline int splits_of(int64_t blocks, int64_t steps) {
  const int64_t wanted = ceil_div(FASTGAN_CONV_BLOCKS, blocks), most = steps / kStepsASplit;
  return static_cast<int>(wanted < most ? wanted : most < 1 ? 1 : most);
}

// The splits that take the least time: rounds of `places` blocks that run at the same time, times a block's steps and
// what its beginning and end cost, as steps; and a launch to add them up, where there is none for one split.
inline int splits_in_rounds(int64_t blocks, int64_t steps, int64_t places, int64_t steps_of_launch) {
  const int64_t most = std::clamp<int64_t>(steps / kStepsASplit, 1, ceil_div(4 * places, blocks));
  int64_t best = 1, least = 0;
  for (int64_t splits = 1; splits <= most; ++splits) {
    const int64_t time = ceil_div(blocks * splits, places) * (ceil_div(steps, splits) + kStepsASplit) +
                         (splits > 1 ? steps_of_launch : 0);
    if (splits == 1 || time < least - least / 16) best = splits, least = time;  // more sums to add must be worth it
  }
  return static_cast<int>(best);
}

// The steps [first, first + count) of split `split`.
struct StepRange {
  int first, count;

  __device__ __forceinline__ StepRange(int steps, int splits, int split) {
    const int each = steps / splits, more = steps % splits;
    first = split * each + (split < more ? split : more);
    count = each + (split < more ? 1 : 0);
  }
};

inline unsigned blocks_of_threads(int64_t threads) { return static_cast<unsigned>(ceil_div(threads, kPassThreads)); }
inline int64_t rounded_up(int64_t bytes, int64_t unit) { return ceil_div(bytes, unit) * unit; }

// Statistics of what conv_gemm has stored, but for the workspace.
inline BnStatsParams stats_of_out(const ConvGemmParams& p) {
  const ConvShape& s = p.shape;
  const bool up = p.direction == ConvDirection::Up;
  const int64_t channels = up ? s.fine_channels : s.coarse_channels;
  const int64_t pixels = up ? s.fine_h * s.fine_w : s.coarse_h * s.coarse_w;
  return {p.out, {s.samples, channels, pixels, Layout::ChannelsLast}, p.dtype, p.mean, p.var, p.invstd, p.eps, nullptr};
}

inline int64_t bytes_of_sums(const ConvGemmParams& p, int splits) {
  return rounded_up(splits * stats_of_out(p).shape.numel() * static_cast<int64_t>(sizeof(float)), 16);
}

// Bytes that a product of several splits needs: the sums, (splits, elements of out), then the workspace of their
// statistics.
inline int64_t split_workspace(const ConvGemmParams& p, int splits) {
  const int64_t stats = p.epilogue == ConvEpilogue::Statistics ? bn_stats_workspace(stats_of_out(p)) : 0;
  return bytes_of_sums(p, splits) + stats;
}

// Kernels of headers are static: units are compiled for different architectures, and a stub that the linker shares
// among them would be registered with the code of only one.
//
// One thread V neighbouring elements of out.
template <class T, int V>
static __global__ void __launch_bounds__(kPassThreads)
    add_splits(const ConvGemmParams p, const float* partial, int splits, int channels, int64_t elements) {
  const int64_t i = (blockIdx.x * static_cast<int64_t>(kPassThreads) + threadIdx.x) * V;
  if (i >= elements) return;
  constexpr int W = V < 4 ? V : 4;  // floats a load
  float z[V] = {};
  for (int split = 0; split < splits; ++split) {
#pragma unroll
    for (int v = 0; v < V; v += W) {
      float more[W];
      load(partial + split * elements + i + v, more);
#pragma unroll
      for (int w = 0; w < W; ++w) z[v + w] += more[w];
    }
  }
  float bias[V];
  ChannelAffine affine[V];
  load_bias<T>(p, channels, static_cast<int>(i % channels), bias);
  load_affine(p, channels, static_cast<int>(i % channels), affine);
  add_bias(bias, z);
  finish(p, affine, z);
  store(static_cast<T*>(p.out) + i, z);
}

// The epilogue of a split product. workspace: split_workspace() bytes that open with the sums.
template <class T>
cudaError_t finish_splits(const ConvGemmParams& p, void* workspace, int splits, cudaStream_t stream) {
  BnStatsParams stats = stats_of_out(p);
  const int channels = static_cast<int>(stats.shape.channels);
  const int64_t elements = stats.shape.numel();
  const bool by_vector = channels % kVector<T> == 0 && aligned16(p.out);
  FASTGAN_RETURN_IF_ERROR(with_vector_width<T>(by_vector, [&](auto width) {
    constexpr int V = decltype(width)::value;
    return launch(add_splits<T, V>, dim3(blocks_of_threads(elements / V)), dim3(kPassThreads), stream, p,
                  static_cast<const float*>(workspace), splits, channels, elements);
  }));
  if (p.epilogue != ConvEpilogue::Statistics) return cudaSuccess;
  stats.workspace = static_cast<unsigned char*>(workspace) + bytes_of_sums(p, splits);
  return bn_stats(stats, stream);
}

// Bytes of the sums of a weight gradient, (splits, taps, coarse_channels, fine_channels).
inline int64_t weight_grad_sums(const ConvWeightGradParams& p, int splits) {
  const ConvShape& s = p.shape;
  const int64_t elements = int64_t{s.kernel_h} * s.kernel_w * s.coarse_channels * s.fine_channels;
  return splits * elements * static_cast<int64_t>(sizeof(float));
}

// Adds the splits of a weight gradient up. One thread a pair of channels, all its taps: those are neighbours in a
// contiguous weight, and for one tap the threads of a warp are neighbours in a channels_last one.
template <class T>
static __global__ void __launch_bounds__(kPassThreads)
    add_weight_grad_splits(const ConvWeightGradParams p, const float* partial, int splits) {
  const int fine_channels = static_cast<int>(p.shape.fine_channels), taps = p.shape.kernel_h * p.shape.kernel_w;
  const int64_t pairs = p.shape.coarse_channels * fine_channels;
  const int64_t i = blockIdx.x * static_cast<int64_t>(kPassThreads) + threadIdx.x;
  if (i >= pairs) return;
  const int64_t coarse = i / fine_channels, fine = i % fine_channels;
  T* grad = static_cast<T*>(p.grad_weight);
#pragma unroll 4
  for (int t = 0; t < taps; ++t) {
    float sum = 0.f;
    for (int split = 0; split < splits; ++split) sum += partial[(static_cast<int64_t>(split) * taps + t) * pairs + i];
    const bool last = p.weight_layout == Layout::ChannelsLast;
    grad[last ? (coarse * taps + t) * fine_channels + fine : i * taps + t] = from_float<T>(sum);
  }
}

template <class T>
cudaError_t finish_weight_grad_splits(const ConvWeightGradParams& p, const void* sums, int splits,
                                      cudaStream_t stream) {
  const int64_t pairs = p.shape.coarse_channels * p.shape.fine_channels;
  return launch(add_weight_grad_splits<T>, dim3(blocks_of_threads(pairs)), dim3(kPassThreads), stream, p,
                static_cast<const float*>(sums), splits);
}

}  // namespace fastgan::cuda
