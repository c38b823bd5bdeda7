// How the kernels over ChannelsLast images (N * S rows of C channels) share out a block, and its channels' parameters.
//
// A block is `lanes` x `rows` threads: a thread keeps V neighbouring channels and walks down the rows, so that a warp reads
// whole lines and parameters are read once a block. lanes = the power of two that covers C / V, at most 32.
#pragma once

#include <cstring>

#include "image.h"
#include "reduce.cuh"

// Blocks that a kernel walking over its channels aims at: three on each of an H200's 132 multiprocessors, which the registers
// of all of them allow, in one wave of equal work, with 48 KiB in flight on each. Tests lower this.
#ifndef FASTGAN_CHANNEL_BLOCKS
#define FASTGAN_CHANNEL_BLOCKS 384
#endif

namespace fastgan::cuda {

constexpr int kChannelThreads = 256;
constexpr int64_t kChannelBlocks = FASTGAN_CHANNEL_BLOCKS;

// Whether V > 1 neighbours of a row (ChannelsFirst: a plane, ChannelsLast: the channels) can be read at once.
inline bool rows_divide_into_vectors(const ImageShape& shape, int vector) {
  return (shape.layout == Layout::ChannelsFirst ? shape.pixels : shape.channels) % vector == 0;
}

inline dim3 channels_last_block(const ImageShape& shape, int vector) {
  int lanes = 1;
  while (lanes < kWarp && lanes < shape.channels / vector) lanes *= 2;
  return dim3(lanes, kChannelThreads / lanes);
}

inline int64_t channels_last_columns(const ImageShape& shape, int vector, const dim3& block) {
  return (shape.channels / vector + block.x - 1) / block.x;
}

// A table of kCapacity channels in shared memory, an array a field, so that neighbouring channels are read as vectors.
// Channel is a struct of floats.
template <class Channel>
constexpr int kFields = sizeof(Channel) / sizeof(float);

template <int kCapacity, class Channel>
__device__ __forceinline__ void write_channel(float* table, int entry, const Channel& channel) {
  float fields[kFields<Channel>];
  std::memcpy(fields, &channel, sizeof channel);
#pragma unroll
  for (int f = 0; f < kFields<Channel>; ++f) table[f * kCapacity + entry] = fields[f];
}

template <int kCapacity, class Channel>
__device__ __forceinline__ void read_channel(const float* table, int entry, Channel& channel) {
  float fields[kFields<Channel>];
#pragma unroll
  for (int f = 0; f < kFields<Channel>; ++f) fields[f] = table[f * kCapacity + entry];
  std::memcpy(&channel, fields, sizeof channel);
}

// out[v] = parameters(c0 + threadIdx.x * V + v) with c0 the block's first channel: each channel's once a block, by the
// first threads, and from shared memory to all. Channels past the last take the last one's.
template <int V, class Channel, class Parameters>
__device__ __forceinline__ void share_channels(int channels, const Parameters& parameters, Channel (&out)[V]) {
  FASTGAN_SHARED(float, table, kFields<Channel> * kChannelThreads);
  const int columns = blockDim.x * V, first = blockIdx.x * columns;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  if (thread < columns) {
    write_channel<kChannelThreads>(table, thread, parameters(first + thread < channels ? first + thread : channels - 1));
  }
  __syncthreads();
#pragma unroll
  for (int v = 0; v < V; ++v) read_channel<kChannelThreads>(table, threadIdx.x * V + v, out[v]);
}

}  // namespace fastgan::cuda
