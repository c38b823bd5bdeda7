// Cooperative launches: all blocks run at the same time, so that they may wait for each other in grid_sync().
//
// The barrier's state is the driver's, every launch has its own. A counter in a workspace would have to be zero when the
// launch starts, which takes another launch to clear it, or memory that survives between calls, which two streams (or a
// graph replayed beside eager work) would share and spoil.
#pragma once

#include "platform.cuh"

#if defined(__CUDACC__)

#include <cooperative_groups.h>

#include <map>
#include <mutex>
#include <tuple>

namespace fastgan::cuda {

// As launch_with_shared; refused where there are more blocks than resident_blocks().
template <class... P, class... A>
cudaError_t launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, int shared_bytes, cudaStream_t stream, A&&... args) {
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (allowed != cudaSuccess) return allowed;
  std::tuple<std::decay_t<P>...> values(static_cast<P>(std::forward<A>(args))...);
  return std::apply(
      [&](auto&... value) {
        void* pointers[] = {&value...};
        return cudaLaunchCooperativeKernel(kernel, grid, block, pointers, static_cast<size_t>(shared_bytes), stream);
      },
      values);
}

// How many blocks of a kernel the current device runs at the same time; 0 where it cannot be asked. Asked once a device.
template <class... P>
int64_t resident_blocks(void (*kernel)(P...), int threads, int shared_bytes) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int64_t> known;  // by kernel and device
  int device = 0, processors = 0, of_processor = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [entry, missing] = known.try_emplace({reinterpret_cast<const void*>(kernel), device}, 0);
  if (missing && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) == cudaSuccess &&
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_processor, kernel, threads, static_cast<size_t>(shared_bytes)) ==
          cudaSuccess) {
    entry->second = int64_t{processors} * of_processor;
  }
  return entry->second;
}

// Waits for all threads of a cooperative launch; what any of them wrote before, all see afterwards.
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

}  // namespace fastgan::cuda

#else

namespace fastgan::cuda {

template <class... P, class... A>
cudaError_t launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, int shared_bytes, cudaStream_t, A&&... args) {
  return cuda_on_host::launch_cooperative(kernel, grid, block, static_cast<size_t>(shared_bytes), std::forward<A>(args)...);
}

template <class... P>
int64_t resident_blocks(void (*)(P...), int, int) {
  return cuda_on_host::options.resident_blocks;
}

using cuda_on_host::grid_sync;

}  // namespace fastgan::cuda

#endif
