// Instructions that CUDA C++ has no function for: all PTX of this folder but that of ptx_sm90a.cuh. Under nvcc a function
// is its instruction; the executor of tests/cuda_on_host has a twin of the same name for each, which also checks how it is
// used.
//
// Asynchronous copies of a thread     cp_async_4/8/16, cp_async_commit_group, cp_async_wait_group     from sm_80
// Barriers in shared memory           mbarrier_init, _arrive, _arrive_expect_tx, _wait                from sm_90 (*)
// Copies by the copy engine           bulk_copy, fence_proxy_async                                    from sm_90
//
// (*) mbarrier is older, but transaction counts and try_wait are not. Where the architecture being compiled has no such
// instruction the function is missing: a kernel for several architectures keeps it inside #if FASTGAN_SM90.
//
// Titles in quotation marks are those of NVIDIA's "Parallel Thread Execution ISA", version 8.0 and later.
#pragma once

#include "platform.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FASTGAN_SM90 1
#else
#define FASTGAN_SM90 0
#endif

namespace fastgan::cuda {

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// "cp.async": copies `valid` bytes from global to shared memory and writes zeros after them, 4, 8 or 16 bytes in all;
// both addresses are aligned to that. Nobody may touch either side until a wait covers the copy, and other threads only
// after a barrier behind that wait. 16 bytes go past L1 (.cg), which has no smaller form.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, uint32_t valid = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
               : "memory");
}
__device__ __forceinline__ void cp_async_8(void* shared, const void* global, uint32_t valid = 8) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
               : "memory");
}
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, uint32_t valid = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
               : "memory");
}

// "cp.async.commit_group": this thread's copies since the last commit, maybe none, become a group.
__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// "cp.async.wait_group": returns when all of this thread's groups but the newest N have landed.
template <int N>
__device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#if FASTGAN_SM90

// "mbarrier.init": a barrier in shared memory whose phases end after `arrivals` arrivals and all bytes expected. By one
// thread, with fence_proxy_async where bulk copies use it, before a block barrier.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// "mbarrier.arrive": publishes this thread's past to those who wait for the phase.
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared::cta.b64 state, [%0];\n\t}" ::"r"(
                   shared_address(barrier))
               : "memory");
}

// "mbarrier.arrive" with .expect_tx: arrives, and the phase waits for `bytes` bytes of asynchronous copies more.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes) {
  asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n\t}" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// "mbarrier.try_wait" with .parity: returns when the phase of that parity has ended. Phases count from 0; a fresh
// barrier counts as having ended a phase of parity 1.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n\t.reg .pred ended;\n\tmbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, ended;\n\t}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}

// "fence.proxy.async": this thread's stores to shared memory so far are visible to the copy engine, once a barrier
// orders them before the copy.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// "cp.async.bulk" from global to shared memory: `bytes`, a multiple of 16, at addresses aligned to 16; their landing
// counts against the bytes that `barrier` expects. By one thread. The destination is an address of the cluster, of which
// the block's own shared memory is a part.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

#endif  // FASTGAN_SM90

#else  // the executor

using cuda_on_host::bulk_copy;
using cuda_on_host::cp_async_16;
using cuda_on_host::cp_async_4;
using cuda_on_host::cp_async_8;
using cuda_on_host::cp_async_commit_group;
using cuda_on_host::cp_async_wait_group;
using cuda_on_host::fence_proxy_async;
using cuda_on_host::mbarrier_arrive;
using cuda_on_host::mbarrier_arrive_expect_tx;
using cuda_on_host::mbarrier_init;
using cuda_on_host::mbarrier_wait;

#endif

}  // namespace fastgan::cuda
