// Per-channel reductions of an image batch (N, C, S): the two kernels behind bn_stats and bn_act_backward_reduce.
//
// An operation Op gives
//   Op::Accumulator, Op::Channel
//   Channel channel(int c)                                            what one channel's elements share, loaded once
//   void add(Accumulator& a, const Channel&, int64_t offset)          V neighbouring elements of one channel
//   void add_columns(Accumulator (&a)[V], const Channel (&)[V], int64_t offset)     one element of V neighbouring channels
//   void finish(int c, Accumulator)                                   writes channel c's result
//
// ChannelsFirst: grid (C, splits), 256 threads. A block walks its share of one channel's N * S elements, V at a time.
// ChannelsLast: grid (ceil(C / V / lanes), splits), a block of `lanes` x `rows` threads: a thread keeps V neighbouring
//   channels and walks down the N * S rows, so that its parameters and accumulators stay in registers and a warp reads
//   whole lines. lanes = the power of two that covers C / V, at most 32.
// With one split the block writes the result; else it writes partial[split][c] and `combine`, a second launch with one
// warp a channel, merges the splits in order. The number of splits follows from the shape alone: results do not depend on
// the device. It aims at 1024 blocks, each with at least 16 vectors of work a thread row, to fill 132 multiprocessors.
#pragma once

#include "image.h"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastgan::cuda {

constexpr int kReduceThreads = 256;
constexpr int64_t kReduceBlocks = 1024;
constexpr int64_t kElementsPerThread = 16;

template <class Op, int V>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_channels_first(Op op, ImageShape shape, Divider vectors_per_plane, uint32_t vectors, uint32_t vectors_per_split,
                          typename Op::Accumulator* partial) {
  const int c = blockIdx.x;
  const typename Op::Channel channel = op.channel(c);
  const uint32_t begin = blockIdx.y * vectors_per_split;
  const uint32_t end = begin + vectors_per_split < vectors ? begin + vectors_per_split : vectors;
  auto sum = zero<typename Op::Accumulator>();
#pragma unroll 2
  for (uint32_t i = begin + threadIdx.x; i < end; i += kReduceThreads) {
    const uint32_t n = vectors_per_plane.quotient(i);
    const uint32_t s = (i - n * vectors_per_plane.divisor) * V;
    op.template add<V>(sum, channel, (n * shape.channels + c) * shape.pixels + s);
  }
  sum = block_reduce<kReduceThreads>(sum);
  if (threadIdx.x != 0) return;
  if (gridDim.y == 1) {
    op.finish(c, sum);
  } else {
    partial[blockIdx.y * shape.channels + c] = sum;
  }
}

template <class Op, int V>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_channels_last(Op op, ImageShape shape, int64_t rows_per_split, typename Op::Accumulator* partial) {
  const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  const int64_t begin = blockIdx.y * rows_per_split;
  const int64_t rows = shape.samples * shape.pixels;
  const int64_t end = begin + rows_per_split < rows ? begin + rows_per_split : rows;
  typename Op::Accumulator sum[V];
#pragma unroll
  for (int v = 0; v < V; ++v) sum[v] = zero<typename Op::Accumulator>();
  if (c < shape.channels) {
    typename Op::Channel channel[V];
#pragma unroll
    for (int v = 0; v < V; ++v) channel[v] = op.channel(c + v);
#pragma unroll 2
    for (int64_t row = begin + threadIdx.y; row < end; row += blockDim.y) {
      op.template add_columns<V>(sum, channel, row * shape.channels + c);
    }
  }
  rows_reduce<kReduceThreads, V>(sum);
  if (threadIdx.y != 0 || c >= shape.channels) return;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (gridDim.y == 1) {
      op.finish(c + v, sum[v]);
    } else {
      partial[blockIdx.y * shape.channels + c + v] = sum[v];
    }
  }
}

// partial: (splits, C). One warp a channel: lane l merges splits l, l + 32, ...; then the lanes are merged.
template <class Op>
__global__ void __launch_bounds__(kReduceThreads)
    combine(Op op, const typename Op::Accumulator* partial, int splits, int channels) {
  const int c = blockIdx.x * (kReduceThreads / kWarp) + threadIdx.x / kWarp;
  if (c >= channels) return;  // whole warps leave
  auto sum = zero<typename Op::Accumulator>();
  for (int split = threadIdx.x % kWarp; split < splits; split += kWarp) {
    sum = merge(sum, partial[static_cast<int64_t>(split) * channels + c]);
  }
  sum = warp_reduce(sum);
  if (threadIdx.x % kWarp == 0) op.finish(c, sum);
}

struct ChannelPlan {
  dim3 grid, block;
  int64_t share;  // vectors (ChannelsFirst) or rows (ChannelsLast) of a split
};

inline ChannelPlan plan_channel_reduction(const ImageShape& shape, int vector) {
  ChannelPlan plan;
  int64_t columns, work, least;  // blocks across the channels; work to split; the least of it worth a block
  if (shape.layout == Layout::ChannelsFirst) {
    plan.block = dim3(kReduceThreads);
    columns = shape.channels;
    work = shape.per_channel() / vector;
    least = kReduceThreads * ceil_div(kElementsPerThread, vector);
  } else {
    int lanes = 1;
    while (lanes < kWarp && lanes < shape.channels / vector) lanes *= 2;
    plan.block = dim3(lanes, kReduceThreads / lanes);
    columns = ceil_div(shape.channels / vector, lanes);
    work = shape.per_channel();
    least = plan.block.y * kElementsPerThread;
  }
  const int64_t wanted = ceil_div(kReduceBlocks, columns), possible = ceil_div(work, least);
  plan.share = ceil_div(work, wanted < possible ? wanted : possible);
  plan.grid = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(ceil_div(work, plan.share)));
  return plan;
}

// Bytes of `workspace` for run_channel_reduction; 0 where one split suffices.
template <class Accumulator>
int64_t channel_reduction_workspace(const ImageShape& shape, int vector) {
  const unsigned splits = plan_channel_reduction(shape, vector).grid.y;
  return splits == 1 ? 0 : static_cast<int64_t>(splits) * shape.channels * static_cast<int64_t>(sizeof(Accumulator));
}

// Whether V > 1 neighbours of a row (ChannelsFirst: a plane, ChannelsLast: the channels) can be read at once.
inline bool rows_divide_into_vectors(const ImageShape& shape, int vector) {
  return (shape.layout == Layout::ChannelsFirst ? shape.pixels : shape.channels) % vector == 0;
}

// Assumes shape.numel() > 0, shape.per_channel() < 2^31 and, for V > 1, rows_divide_into_vectors and aligned pointers.
template <int V, class Op>
cudaError_t run_channel_reduction(const Op& op, const ImageShape& shape, void* workspace, cudaStream_t stream) {
  using Accumulator = typename Op::Accumulator;
  const ChannelPlan plan = plan_channel_reduction(shape, V);
  auto* partial = static_cast<Accumulator*>(workspace);
  if (shape.layout == Layout::ChannelsFirst) {
    const Divider vectors_per_plane(static_cast<uint32_t>(shape.pixels / V));
    const auto vectors = static_cast<uint32_t>(shape.per_channel() / V), share = static_cast<uint32_t>(plan.share);
    FASTGAN_RETURN_IF_ERROR(launch(reduce_channels_first<Op, V>, plan.grid, plan.block, stream, op, shape,
                                   vectors_per_plane, vectors, share, partial));
  } else {
    FASTGAN_RETURN_IF_ERROR(
        launch(reduce_channels_last<Op, V>, plan.grid, plan.block, stream, op, shape, plan.share, partial));
  }
  if (plan.grid.y == 1) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(ceil_div(shape.channels, kReduceThreads / kWarp)));
  return launch(combine<Op>, grid, dim3(kReduceThreads), stream, op, static_cast<const Accumulator*>(partial),
                static_cast<int>(plan.grid.y), static_cast<int>(shape.channels));
}

}  // namespace fastgan::cuda
