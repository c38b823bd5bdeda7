// Per-channel reductions of an image batch (N, C, S): the two kernels behind bn_stats and bn_act_backward_reduce.
//
// An operation Op gives
//   Op::kUnroll                                                       vectors of each tensor that a thread loads at once
//   Op::Channel                                                       floats that one channel's elements share
//   Channel channel(int c, sample)                                    sample(k), k < kUnroll: offsets of elements of the block
//   Inputs<V> load<V>(int64_t offset)                                 V neighbouring elements of each tensor, as they are
//   void add(SumPair (&)[K], const Channel (&)[K], const Inputs<V>&)  K = 1: all of one channel, K = V: one of each of V
//   Partial close(SumPair, const Channel&, int64_t count)             a block's result for one channel, of `count` elements
//   Channel centre(const Partial&), SumPair open(const Partial&, const Channel&)     back to sums that can be added
//   void finish(int c, const Partial&)                                writes channel c's result
//
// ChannelsFirst: grid (C, splits), 256 threads, a tile is 256 * U vectors of one channel.
// ChannelsLast: grid (columns, splits), channel_table.cuh, a tile is `rows` * U rows.
// U = kUnroll loads a thread and tensor are on their way at once; then they are added up. Past the end a thread loads its
// first vector again: under a condition of its own each load would be waited for before the next one starts. Tiles are
// dealt out to the splits like cards and from the tensor's end to its start: what a convolution wrote last is still in the
// L2 cache, and what is read last here is what the map behind it, which walks forward, reads first.
//
// With one split the block writes the result; else it writes partial[c][split] and `combine`, a second launch with one warp
// a channel, merges the splits in order. The number of splits, about kChannelBlocks over all channels, follows from the
// shape alone, so results do not depend on the device. One launch, with the last block to arrive merging, would need
// counters that are zero when it starts: a launch to clear them, which saves nothing, or memory that survives between
// calls, which two streams (or a graph replayed beside eager work) would share and spoil.
#pragma once

#include "channel_table.cuh"
#include "vec.cuh"

namespace fastgan::cuda {

// A block's units of work (vectors or rows): [first, first + tile), then `step` less, down to 0 or more; `taken` in all.
// The tile at the end may be short. work < 2^31.
struct Share {
  int first, step, taken;

  __device__ Share(int work, int tile) {
    const int tiles = (work + tile - 1) / tile, mine = tiles - 1 - static_cast<int>(blockIdx.y);
    first = mine * tile;
    step = gridDim.y * tile;
    taken = (mine / static_cast<int>(gridDim.y) + 1) * tile - (blockIdx.y == 0 ? tiles * tile - work : 0);
  }
};

template <class Op>
__device__ __forceinline__ void write_split(const Op& op, int64_t c, const typename Op::Partial& result,
                                            typename Op::Partial* partial) {
  if (gridDim.y == 1) {
    op.finish(c, result);
  } else {
    partial[c * gridDim.y + blockIdx.y] = result;
  }
}

template <class Op, int V>
__global__ void __launch_bounds__(kChannelThreads)
    reduce_channels_first(Op op, uint32_t channels, uint32_t pixels, Divider vectors_per_plane, int vectors,
                          typename Op::Partial* partial) {
  constexpr int U = Op::kUnroll, kTile = kChannelThreads * U;
  const int c = blockIdx.x;
  const auto offset_of = [&](uint32_t i) {
    const uint32_t n = vectors_per_plane.quotient(i);
    return static_cast<int64_t>((uint64_t{n} * channels + c) * pixels + (i - n * vectors_per_plane.divisor) * V);
  };
  typename Op::template Inputs<V> in[U] = {};
  const auto load = [&](int begin) {
    if (begin >= vectors) return;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int i = begin + u * kChannelThreads;
      in[u] = op.template load<V>(offset_of(i < vectors ? i : begin));
    }
  };
  const Share share(vectors, kTile);
  int begin = share.first + threadIdx.x;
  load(begin);
  const auto sample = [&](int k) {
    const int i = share.first + k * kChannelThreads;
    return offset_of(i < vectors ? i : vectors - 1);
  };
  const typename Op::Channel channel[1] = {op.channel(c, sample)};
  SumPair sum[1] = {};
  while (true) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (begin + u * kChannelThreads < vectors) op.add(sum, channel, in[u]);
    }
    begin -= share.step;
    if (begin < 0) break;
    load(begin);
  }
  const SumPair total = block_reduce<kChannelThreads>(sum[0]);
  if (threadIdx.x == 0) write_split(op, c, op.close(total, channel[0], int64_t{share.taken} * V), partial);
}

template <class Op, int V>
__global__ void __launch_bounds__(kChannelThreads)
    reduce_channels_last(Op op, int rows, int channels, typename Op::Partial* partial) {
  constexpr int U = Op::kUnroll;
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V, lane_rows = blockDim.y;
  const int64_t row_step = static_cast<int64_t>(lane_rows) * channels;
  const int rows_here = column < channels ? rows : 0;  // a thread past the last channel reads nothing
  typename Op::template Inputs<V> in[U] = {};
  const auto load = [&](int begin) {
    if (begin >= rows_here) return;
    const int64_t offset = static_cast<int64_t>(begin) * channels + column;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      in[u] = op.template load<V>(offset + (begin + u * lane_rows < rows ? u * row_step : 0));
    }
  };
  const Share share(rows, lane_rows * U);
  int begin = share.first + threadIdx.y;
  load(begin);
  const auto parameters = [&](int c) {
    return op.channel(c, [&](int k) {
      const int row = share.first + k * lane_rows;
      return static_cast<int64_t>(row < rows ? row : rows - 1) * channels + c;
    });
  };
  typename Op::Channel channel[V];
  share_channels<V>(channels, parameters, channel);
  SumPair sum[V] = {};
  while (true) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (begin + u * lane_rows < rows_here) op.add(sum, channel, in[u]);
    }
    begin -= share.step;
    if (begin < 0) break;
    load(begin);
  }
  const SumPair total = column_reduce<kChannelThreads, V>(sum);
  const int c = blockIdx.x * blockDim.x * V + column_of_thread<V>();
  const bool mine = threadIdx.y * blockDim.x + threadIdx.x < blockDim.x * V;
  if (mine && c < channels) write_split(op, c, op.close(total, parameters(c), share.taken), partial);
}

// One warp: channel c's result of its `splits` parts. Lane l adds parts l, l + 32, ..., kUnroll loads on their way at
// once; then the lanes are added.
template <int kUnroll, class Op>
__device__ __forceinline__ void combine_channel(const Op& op, const typename Op::Partial* partial, int splits, int c,
                                                int64_t count) {
  partial += static_cast<int64_t>(c) * splits;
  const typename Op::Channel centre = op.centre(partial[0]);
  SumPair sum{};
#pragma unroll kUnroll
  for (int split = threadIdx.x % kWarp; split < splits; split += kWarp) sum = merge(sum, op.open(partial[split], centre));
  sum = warp_reduce(sum);
  if (threadIdx.x % kWarp == 0) op.finish(c, op.close(sum, centre, count));
}

// partial: (C, splits). One warp a channel. Static: conv_split.cuh says why.
template <class Op>
static __global__ void __launch_bounds__(kChannelThreads)
    combine(Op op, const typename Op::Partial* partial, int splits, int channels, int64_t count) {
  const int c = blockIdx.x * (kChannelThreads / kWarp) + threadIdx.x / kWarp;
  if (c < channels) combine_channel<8>(op, partial, splits, c, count);
}

struct ChannelPlan {
  dim3 grid, block;
};

inline ChannelPlan plan_channel_reduction(const ImageShape& shape, int vector, int unroll) {
  ChannelPlan plan;
  int64_t columns, tiles;  // blocks across the channels; what there is to split
  if (shape.layout == Layout::ChannelsFirst) {
    plan.block = dim3(kChannelThreads);
    columns = shape.channels;
    tiles = ceil_div(shape.per_channel() / vector, int64_t{kChannelThreads} * unroll);
  } else {
    plan.block = channels_last_block(shape, vector);
    columns = channels_last_columns(shape, vector, plan.block);
    tiles = ceil_div(shape.per_channel(), int64_t{plan.block.y} * unroll);
  }
  const int64_t tiles_a_block = ceil_div(tiles, ceil_div(kChannelBlocks, columns));
  plan.grid = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(ceil_div(tiles, tiles_a_block)));
  return plan;
}

// Bytes of `workspace` for run_channel_reduction; 0 where one split suffices.
template <int V, class Op>
int64_t channel_reduction_workspace(const Op&, const ImageShape& shape) {
  const unsigned splits = plan_channel_reduction(shape, V, Op::kUnroll).grid.y;
  return splits == 1 ? 0 : static_cast<int64_t>(splits) * shape.channels * static_cast<int64_t>(sizeof(typename Op::Partial));
}

// Assumes shape.numel() > 0, shape.per_channel() < 2^31, C * S < 2^30 and, for V > 1, rows_divide_into_vectors and aligned pointers.
template <int V, class Op>
cudaError_t run_channel_reduction(const Op& op, const ImageShape& shape, void* workspace, cudaStream_t stream) {
  using Partial = typename Op::Partial;
  const ChannelPlan plan = plan_channel_reduction(shape, V, Op::kUnroll);
  auto* partial = static_cast<Partial*>(workspace);
  if (shape.layout == Layout::ChannelsFirst) {
    FASTGAN_RETURN_IF_ERROR(launch(reduce_channels_first<Op, V>, plan.grid, plan.block, stream, op,
                                   static_cast<uint32_t>(shape.channels), static_cast<uint32_t>(shape.pixels),
                                   Divider(static_cast<uint32_t>(shape.pixels / V)),
                                   static_cast<int>(shape.per_channel() / V), partial));
  } else {
    FASTGAN_RETURN_IF_ERROR(launch(reduce_channels_last<Op, V>, plan.grid, plan.block, stream, op,
                                   static_cast<int>(shape.per_channel()), static_cast<int>(shape.channels), partial));
  }
  if (plan.grid.y == 1) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(ceil_div(shape.channels, kChannelThreads / kWarp)));
  return launch(combine<Op>, grid, dim3(kChannelThreads), stream, op, static_cast<const Partial*>(partial),
                static_cast<int>(plan.grid.y), static_cast<int>(shape.channels), shape.per_channel());
}

}  // namespace fastgan::cuda
