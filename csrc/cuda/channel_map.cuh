// Elementwise kernels over an image batch (N, C, S) with per-channel parameters (bn_act, bn_act_backward_elemt).
//
// An operation Op gives
//   Op::Channel
//   Channel channel(int c)                                            one channel's parameters
//   void map(const Channel (&)[K], int64_t offset)                    V neighbouring elements; K = 1: all of one channel,
//                                                                     K = V: element v belongs to channel v
//   Op from(int64_t elements)                                         the same operation, its tensors moved on
//
// ChannelsFirst: one thread a vector, in memory order; its channel costs two multiplications (Divider), its parameters are
//   one broadcast load for neighbouring threads.
// ChannelsLast: a block of `lanes` x `rows` threads; a thread keeps V neighbouring channels' parameters in registers and
//   walks down the rows, so that they are read once and not once a row.
#pragma once

#include "image.h"
#include "vec.cuh"

namespace fastgan::cuda {

constexpr int kMapThreads = 256;
constexpr int64_t kMapBlocks = 4096;
constexpr int kMapLanes = 32;

template <class Op, int V>
__global__ void __launch_bounds__(kMapThreads)
    map_channels_first(Op op, Divider vectors_per_plane, Divider channels, uint32_t vectors) {
  const uint32_t i = blockIdx.x * kMapThreads + threadIdx.x;
  if (i >= vectors) return;
  const typename Op::Channel channel[1] = {op.channel(channels.remainder(vectors_per_plane.quotient(i)))};
  op.template map<V>(channel, static_cast<int64_t>(i) * V);
}

template <class Op, int V>
__global__ void __launch_bounds__(kMapThreads) map_channels_last(Op op, int64_t rows, int64_t channels) {
  const int64_t c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (c >= channels) return;
  typename Op::Channel channel[V];
#pragma unroll
  for (int v = 0; v < V; ++v) channel[v] = op.channel(c + v);
  const int64_t step = gridDim.y * blockDim.y;
  for (int64_t row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
    op.template map<V>(channel, row * channels + c);
  }
}

// Assumes shape.numel() > 0, C * S < FASTGAN_MAX_VECTORS_PER_LAUNCH * V and, for V > 1, rows that divide into vectors.
template <int V, class Op>
cudaError_t run_channel_map(const Op& op, const ImageShape& shape, cudaStream_t stream) {
  if (shape.layout == Layout::ChannelsLast) {
    int lanes = 1;
    while (lanes < kMapLanes && lanes < shape.channels / V) lanes *= 2;
    const dim3 block(lanes, kMapThreads / lanes);
    const int64_t columns = ceil_div(shape.channels / V, lanes);
    const int64_t wanted = ceil_div(kMapBlocks, columns), possible = ceil_div(shape.per_channel(), block.y);
    const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(wanted < possible ? wanted : possible));
    return launch(map_channels_last<Op, V>, grid, block, stream, op, shape.per_channel(), shape.channels);
  }
  const int64_t sample = shape.channels * shape.pixels;
  const int64_t fitting = int64_t{FASTGAN_MAX_VECTORS_PER_LAUNCH} / (sample / V);
  const int64_t samples_per_launch = fitting < 1 ? 1 : fitting;
  for (int64_t n = 0; n < shape.samples; n += samples_per_launch) {
    const int64_t samples = samples_per_launch < shape.samples - n ? samples_per_launch : shape.samples - n;
    const int64_t vectors = samples * (sample / V);
    FASTGAN_RETURN_IF_ERROR(launch(map_channels_first<Op, V>, dim3(static_cast<unsigned>(ceil_div(vectors, kMapThreads))),
                                   dim3(kMapThreads), stream, op.from(n * sample),
                                   Divider(static_cast<uint32_t>(shape.pixels / V)),
                                   Divider(static_cast<uint32_t>(shape.channels)), static_cast<uint32_t>(vectors)));
  }
  return cudaSuccess;
}

}  // namespace fastgan::cuda
