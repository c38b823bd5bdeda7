// Instructions that CUDA C++ has no function for: all PTX of this folder but that of ptx_sm90a.cuh. Under nvcc a function
// is its instruction; the executor of tests/cuda_on_host has a twin of the same name for each, which also checks how it is
// used.
//
// Asynchronous copies of a thread     cp_async_4/8/16, cp_async_commit_group, cp_async_wait_group     from sm_80
// Matrices of a warp                  ldmatrix_x4, ldmatrix_x4_trans, mma_*, to_tf32                  from sm_80
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

// "ldmatrix": four 8 x 8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8, 16 bytes in
// shared memory, aligned. Register i takes of matrix i, with g = l / 4 and t = l % 4: elements (g, 2t) and (g, 2t + 1), the
// lower half first; .trans: (2t, g) and (2t + 1, g). A pair of 16-bit elements may as well be one of 32 bits, without .trans.
// All lanes take part.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// "mma", d += A B, A 16 x k, B k x 8, d 16 x 8 floats; "Matrix Fragments for mma.m16n8k16 with floating point type" and
// "... for mma.m16n8k8". Lane l, g = l / 4, t = l % 4:
//   d[0], d[1]       (g, 2t), (g, 2t + 1)           d[2], d[3]       (g + 8, 2t), (g + 8, 2t + 1)
// k = 16, 16-bit elements, the lower half first, + 1 in the upper one:
//   a[0], a[1]       (g, 2t), (g + 8, 2t)           a[2], a[3]       (g, 2t + 8), (g + 8, 2t + 8)
//   b[0], b[1]       (2t, g), (2t + 8, g)
// k = 8, tf32, a float of which the lower 13 bits do not count:
//   a[0], a[1]       (g, t), (g + 8, t)             a[2], a[3]       (g, t + 4), (g + 8, t + 4)
//   b[0], b[1]       (t, g), (t + 4, g)
// All lanes take part.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// "cvt" with .rna.tf32: to nearest, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
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
using cuda_on_host::ldmatrix_x4;
using cuda_on_host::ldmatrix_x4_trans;
using cuda_on_host::mbarrier_arrive;
using cuda_on_host::mbarrier_arrive_expect_tx;
using cuda_on_host::mbarrier_init;
using cuda_on_host::mbarrier_wait;
using cuda_on_host::mma_m16n8k16_bf16;
using cuda_on_host::mma_m16n8k16_fp16;
using cuda_on_host::mma_m16n8k8_tf32;
using cuda_on_host::to_tf32;

#endif

}  // namespace fastgan::cuda
