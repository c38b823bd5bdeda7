// One launch over many tensors of one type: pointers travel by value in the kernel's parameters, so that a launch needs
// no allocation and no copy, and is captured by a CUDA graph as it is.
//
// A table holds as many tensors as 4 KiB of kernel parameters take (one list: 197, five lists: 75), what every driver that
// runs this build accepts; 32764 bytes, which CUDA 12.1 brought, would save the second launch of networks of several
// hundred tensors alone. Every tensor is
// cut into chunks of kChunk elements, one block each; a block finds its tensor by bisection of `first_chunk`.
#pragma once

#include "vec.cuh"

namespace fastgan::cuda {

constexpr int kMultiTensorThreads = 256;
constexpr int kChunk = 4096;  // elements a block; a multiple of every vector width, so chunks keep the tensor's alignment
constexpr int kParameterBytes = 4096;
constexpr int kScalarBytes = 128;  // left for the operation's own parameters

template <int kLists>
struct TensorTable {
  static constexpr int kCapacity = (kParameterBytes - kScalarBytes) / (kLists * 8 + 8 + 4) - 1;

  void* data[kLists][kCapacity];  // null in a list that this call does not have
  int64_t numel[kCapacity];
  int first_chunk[kCapacity + 1];  // first_chunk[t] <= block < first_chunk[t + 1] works on tensor t
  int tensors;
};

// Where a block works: `count` elements from each pointer.
template <int kLists, class T>
struct Chunk {
  T* data[kLists];
  int count;
  bool vectorised;
};

template <int kLists, class T>
__device__ __forceinline__ Chunk<kLists, T> find_chunk(const TensorTable<kLists>& table) {
  const int block = blockIdx.x;
  int low = 0, high = table.tensors;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first_chunk[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t offset = static_cast<int64_t>(block - table.first_chunk[low]) * kChunk;
  const int64_t left = table.numel[low] - offset;
  Chunk<kLists, T> chunk;
  chunk.count = static_cast<int>(left < kChunk ? left : kChunk);
  uintptr_t bits = 0;
#pragma unroll
  for (int list = 0; list < kLists; ++list) {
    void* p = table.data[list][low];
    bits |= reinterpret_cast<uintptr_t>(p);
    chunk.data[list] = p ? static_cast<T*>(p) + offset : nullptr;
  }
  chunk.vectorised = bits % 16 == 0;
  return chunk;
}

// Calls op.apply<V>(chunk, i) for i = the first of V neighbours, every element of the chunk once: vectors, then the tail.
template <int kLists, class T, class Op>
__global__ void __launch_bounds__(kMultiTensorThreads) multi_tensor_kernel(TensorTable<kLists> table, Op op) {
  const Chunk<kLists, T> chunk = find_chunk<kLists, T>(table);
  int done = 0;
  if (chunk.vectorised) {
    constexpr int V = kVector<T>;
    done = chunk.count / V * V;
    for (int i = threadIdx.x * V; i < done; i += kMultiTensorThreads * V) op.template apply<V>(chunk, i);
  }
  for (int i = done + threadIdx.x; i < chunk.count; i += kMultiTensorThreads) op.template apply<1>(chunk, i);
}

// `lists[l]` points to `tensors` pointers, or is null for a list that this call does not have; numel > 0 or skipped.
template <int kLists, class T, class Op>
cudaError_t multi_tensor_apply(const Op& op, void* const* const (&lists)[kLists], const int64_t* numel, int tensors,
                               cudaStream_t stream) {
  using Table = TensorTable<kLists>;
  static_assert(sizeof(Table) + sizeof(Op) <= kParameterBytes, "table and scalars must fit the kernel's parameters");
  Table table{};
  for (int t = 0; t < tensors; ++t) {
    if (numel[t] > 0) {
      const int slot = table.tensors++;
      for (int list = 0; list < kLists; ++list) table.data[list][slot] = lists[list] ? lists[list][t] : nullptr;
      table.numel[slot] = numel[t];
      table.first_chunk[slot + 1] = table.first_chunk[slot] + static_cast<int>(ceil_div(numel[t], kChunk));
    }
    const bool last = t == tensors - 1;
    if (table.tensors == Table::kCapacity || (last && table.tensors > 0)) {
      FASTGAN_RETURN_IF_ERROR(launch(multi_tensor_kernel<kLists, T, Op>,
                                     dim3(static_cast<unsigned>(table.first_chunk[table.tensors])),
                                     dim3(kMultiTensorThreads), stream, table, op));
      table.tensors = 0;
    }
  }
  return cudaSuccess;
}

// x limited to [-limit, limit]; NaN stays NaN, as in torch.clamp.
__device__ __forceinline__ float clamp(float x, float limit) { return x < -limit ? -limit : (x > limit ? limit : x); }

}  // namespace fastgan::cuda
