// Elementwise kernels over an image batch (N, C, S) with per-channel parameters (bn_act, bn_act_backward_elemt).
//
// An operation Op gives
//   Op::kUnroll, Op::Channel                                          vectors a thread loads at once; floats of one channel
//   Channel channel(int c)                                            one channel's parameters
//   Inputs<V> load<V>(int64_t offset)                                 V neighbouring elements of each tensor, as they are
//   void map(const Channel (&)[K], const Inputs<V>&, int64_t offset)  K = 1: all of one channel, K = V: one of each of V
//   Op from(int64_t elements)                                         the same operation, its tensors moved on
//
// ChannelsFirst: a block 256 * U vectors in memory order. They lie in at most as many planes, whose channels' parameters the
//   block puts into shared memory; a vector finds its plane by one multiplication (Divider).
// ChannelsLast: channel_table.cuh; about kChannelBlocks blocks, each walking down the rows.
// U = kUnroll loads a thread and tensor are on their way at once, before a parameter is asked for. Past the end a thread
// loads its first vector again: under a condition of its own each load would be waited for before the next one starts.
#pragma once

#include "channel_table.cuh"
#include "vec.cuh"

namespace fastgan::cuda {

template <class Op, int V>
__global__ void __launch_bounds__(kChannelThreads)
    map_channels_first(Op op, Divider vectors_per_plane, Divider channels, uint32_t vectors) {
  constexpr int U = Op::kUnroll, kTile = kChannelThreads * U;
  using Channel = typename Op::Channel;
  const uint32_t first = blockIdx.x * kTile, begin = first + threadIdx.x;
  typename Op::template Inputs<V> in[U] = {};
  if (begin < vectors) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const uint32_t i = begin + u * kChannelThreads;
      in[u] = op.template load<V>(static_cast<int64_t>(i < vectors ? i : begin) * V);
    }
  }
  FASTGAN_SHARED(float, table, kFields<Channel> * kTile);
  const uint32_t last = (vectors - first < kTile ? vectors : first + kTile) - 1;
  const uint32_t first_plane = vectors_per_plane.quotient(first), planes = vectors_per_plane.quotient(last) - first_plane + 1;
#pragma unroll 1  // usually once, by a few threads
  for (uint32_t plane = threadIdx.x; plane < planes; plane += kChannelThreads) {
    write_channel<kTile>(table, plane, op.channel(channels.remainder(first_plane + plane)));
  }
  __syncthreads();
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const uint32_t i = begin + u * kChannelThreads;
    if (i < vectors) {
      Channel channel[1];
      read_channel<kTile>(table, vectors_per_plane.quotient(i) - first_plane, channel[0]);
      op.map(channel, in[u], static_cast<int64_t>(i) * V);
    }
  }
}

template <class Op, int V>
__global__ void __launch_bounds__(kChannelThreads) map_channels_last(Op op, uint32_t rows, int channels) {
  constexpr int U = Op::kUnroll;
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  const uint32_t rows_here = column < channels ? rows : 0;  // a thread past the last channel has nothing to do
  typename Op::template Inputs<V> in[U] = {};
  const auto offset_of = [&](uint32_t row) { return static_cast<int64_t>(row) * channels + column; };
  const auto load = [&](uint32_t begin) {
    if (begin >= rows_here) return;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const uint32_t row = begin + u * blockDim.y;
      in[u] = op.template load<V>(offset_of(row < rows ? row : begin));
    }
  };
  uint32_t begin = blockIdx.y * blockDim.y * U + threadIdx.y;
  load(begin);
  typename Op::Channel channel[V];
  share_channels<V>(channels, [&](int c) { return op.channel(c); }, channel);
  while (begin < rows_here) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const uint32_t row = begin + u * blockDim.y;
      if (row < rows_here) op.map(channel, in[u], offset_of(row));
    }
    begin += gridDim.y * blockDim.y * U;
    load(begin);
  }
}

// Assumes shape.numel() > 0, shape.per_channel() < 2^31, C * S < FASTGAN_MAX_VECTORS_PER_LAUNCH * V and, for V > 1, rows that divide into vectors.
template <int V, class Op>
cudaError_t run_channel_map(const Op& op, const ImageShape& shape, cudaStream_t stream) {
  constexpr int U = Op::kUnroll;
  if (shape.layout == Layout::ChannelsLast) {
    const dim3 block = channels_last_block(shape, V);
    const int64_t columns = channels_last_columns(shape, V, block);
    const int64_t tiles = ceil_div(shape.per_channel(), int64_t{block.y} * U);
    const int64_t tiles_a_block = ceil_div(tiles, ceil_div(kChannelBlocks, columns));
    const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(ceil_div(tiles, tiles_a_block)));
    return launch(map_channels_last<Op, V>, grid, block, stream, op,
                  static_cast<uint32_t>(shape.per_channel()), static_cast<int>(shape.channels));
  }
  const int64_t sample = shape.channels * shape.pixels;
  const int64_t fitting = int64_t{FASTGAN_MAX_VECTORS_PER_LAUNCH} / (sample / V);
  const int64_t samples_per_launch = fitting < 1 ? 1 : fitting;
  for (int64_t n = 0; n < shape.samples; n += samples_per_launch) {
    const int64_t samples = samples_per_launch < shape.samples - n ? samples_per_launch : shape.samples - n;
    const int64_t vectors = samples * (sample / V);
    FASTGAN_RETURN_IF_ERROR(launch(map_channels_first<Op, V>,
                                   dim3(static_cast<unsigned>(ceil_div(vectors, kChannelThreads * U))),
                                   dim3(kChannelThreads), stream, op.from(n * sample),
                                   Divider(static_cast<uint32_t>(shape.pixels / V)),
                                   Divider(static_cast<uint32_t>(shape.channels)), static_cast<uint32_t>(vectors)));
  }
  return cudaSuccess;
}

}  // namespace fastgan::cuda
