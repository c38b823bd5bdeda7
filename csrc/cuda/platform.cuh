// What differs between nvcc and the executor of tests/cuda_on_host: headers, shared memory and the launch (cooperative ones:
// cooperative.cuh).
// The rest of this folder is CUDA C++ that both compile, so it names neither `__shared__` nor `<<<>>>`; PTX: ptx.cuh and
// ptx_sm90a.cuh.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// A block's shared array `name` of `count` elements; uninitialised, aligned for vectors and asynchronous copies.
#define FASTGAN_SHARED(T, name, count) __shared__ __align__(16) T name[count]

// The bytes of shared memory that launch_with_shared gives a block.
#define FASTGAN_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

namespace fastgan::cuda {

template <class... P, class... A>
cudaError_t launch_with_shared(void (*kernel)(P...), dim3 grid, dim3 block, int shared_bytes, cudaStream_t stream,
                               A&&... args) {
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (allowed != cudaSuccess) return allowed;
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(std::forward<A>(args))...);
  return cudaGetLastError();
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, A&&... args) {
  kernel<<<grid, block, 0, stream>>>(static_cast<P>(std::forward<A>(args))...);
  return cudaGetLastError();
}

}  // namespace fastgan::cuda

#else

#include "cuda_on_host.h"

#define FASTGAN_SHARED(T, name, count) CUDA_ON_HOST_SHARED(T, name, count)
#define FASTGAN_DYNAMIC_SHARED(name) CUDA_ON_HOST_DYNAMIC_SHARED(unsigned char, name)

namespace fastgan::cuda {

template <class... P, class... A>
cudaError_t launch_with_shared(void (*kernel)(P...), dim3 grid, dim3 block, int shared_bytes, cudaStream_t,
                               A&&... args) {
  cuda_on_host::launch(kernel, grid, block, static_cast<size_t>(shared_bytes), std::forward<A>(args)...);
  return cudaSuccess;
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t, A&&... args) {
  cuda_on_host::launch(kernel, grid, block, 0, std::forward<A>(args)...);
  return cudaSuccess;
}

}  // namespace fastgan::cuda

#endif

#define FASTGAN_RETURN_IF_ERROR(call)              \
  do {                                             \
    const cudaError_t status_ = (call);            \
    if (status_ != cudaSuccess) return status_;    \
  } while (0)
