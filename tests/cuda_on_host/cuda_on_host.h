// Runs CUDA kernels on the CPU: one fiber per CUDA thread, so that barriers, shuffles and atomics mean what they mean
// on the device. Blocks run one after the other, each thread until it has to wait for another one; Options::order
// chooses who runs first. For tests of correctness alone: README.md says what it finds and what it cannot see.
//
// This header gives kernel sources CUDA's own names. Behind them, in executor/:
//   fibers.h · races.h (the race detector's side is races.cpp) · scheduler.h · collectives.h · shared_memory.h ·
//   async_copy.h · tensor_cores.h · tensor_map.h · wgmma.h · launch.h
#pragma once
#if defined(__CUDACC__)
#error "cuda_on_host.h is for host compilers; nvcc has the real thing"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>

// The toolkit's headers define these for the device compiler; to a host compiler a kernel is a function.
#undef __global__
#undef __device__
#undef __host__
#undef __launch_bounds__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline
#undef __grid_constant__
#define __grid_constant__

#include "executor/async_copy.h"
#include "executor/collectives.h"
#include "executor/launch.h"
#include "executor/tensor_cores.h"
#include "executor/wgmma.h"


#define threadIdx (::cuda_on_host::self->index)
#define blockIdx (::cuda_on_host::block.index)
#define blockDim (::cuda_on_host::block.thread_extent)
#define gridDim (::cuda_on_host::block.grid_extent)

inline void __syncthreads(CUDA_ON_HOST_WHERE) { cuda_on_host::block_barrier(where); }
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_HOST_WHERE) { cuda_on_host::warp_barrier(mask, where); }
inline void __threadfence() {
  const cuda_on_host::InExecutor guard;
  cuda_on_host::races::fence();
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_HOST_WHERE) {
  const auto source = [=](unsigned l) { return l % width + delta < unsigned(width) ? l + delta : l; };
  return cuda_on_host::shuffle(mask, value, source, "__shfl_down_sync", where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_HOST_WHERE) {
  const auto source = [=](unsigned l) { return l % width >= delta ? l - delta : l; };
  return cuda_on_host::shuffle(mask, value, source, "__shfl_up_sync", where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, CUDA_ON_HOST_WHERE) {
  const auto source = [=](unsigned l) { return (l ^ lanes) / width <= l / width ? l ^ lanes : l; };
  return cuda_on_host::shuffle(mask, value, source, "__shfl_xor_sync", where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_HOST_WHERE) {
  struct Request {
    T value;
    int source;
  };
  const auto answer = [=](auto&& all, unsigned l, unsigned present) {
    const unsigned from = l / width * width + unsigned(all(l).source) % width;
    return all(present >> from & 1 ? from : l).value;
  };
  return cuda_on_host::warp_collective<Request, T>(mask, Request{value, source}, answer, "__shfl_sync", where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_HOST_WHERE) {
  const auto answer = [](auto&& all, unsigned, unsigned present) {
    unsigned bits = 0;
    for (unsigned l = 0; l < 32; ++l) {
      if ((present >> l & 1) && all(l)) bits |= 1u << l;
    }
    return bits;
  };
  return cuda_on_host::warp_collective<int, unsigned>(mask, predicate, answer, "__ballot_sync", where);
}

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value, CUDA_ON_HOST_WHERE) {
  return cuda_on_host::read_modify_write(p, [=](T old) { return T(old + value); }, "atomicAdd", where);
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> value, CUDA_ON_HOST_WHERE) {
  return cuda_on_host::read_modify_write(p, [=](T old) { return std::max(old, value); }, "atomicMax", where);
}

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline int __popc(unsigned bits) { return std::popcount(bits); }
