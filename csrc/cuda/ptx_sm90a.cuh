// Tensor cores and tensor copies of sm_90a: the rest of this folder's PTX (ptx.cuh), for units named *_sm90a.cu alone.
// Twins in tests/cuda_on_host/executor: wgmma.h, tensor_map.h.
//
// Tensor copies      tensor_copy                                      a box of a tensor map, by the copy engine
// Matrix products    wgmma, wgmma_fence, _commit_group, _wait_group   64 x N x 16 by 4 warps, operands in shared memory
// Some threads       named_barrier                                    a barrier of fewer threads than the block
//
// Layouts, with the titles of their sections in NVIDIA's "Parallel Thread Execution ISA" (8.0 and later) and "CUDA
// Driver API"; benchmarks/gpu_layouts.py checks each on a GPU. All elements here are of 16 bits.
//
// Matrix descriptor ("Matrix Descriptor Format", wgmma). 64 bits, lengths and addresses in units of 16 bytes:
//     0..13 start address    16..29 leading byte offset (LBO)    32..45 stride byte offset (SBO)
//    49..51 base offset: 0 where the swizzle's pattern begins at a multiple of 8 S, as all tiles here do
//    62..63 swizzle: 0 none, 1 of S = 128 bytes, 2 of 64, 3 of 32
//
// Operands ("Strides", "Canonical Layouts"). Byte of the element (i, k), i a row of A or a column of B, k along the
// sum, before the swizzle and counted from the start address; without a swizzle S = 16:
//    K-major,  swizzled  (i % 8) S + (i / 8) SBO + 2 k                                               k < S / 2
//    K-major,  none      (i % 8) 16 + (i / 8) SBO + (k / 8) LBO + 2 (k % 8)
//    MN-major, swizzled  2 (i % (S / 2)) + (i / (S / 2)) LBO + (k % 8) S + (k / 8) SBO
//    MN-major, none      2 (i % 8) + (i / 8) SBO + (k % 8) 16 + (k / 8) LBO
// An instruction takes 16 values of k. For the next 16 the start address moves on, inside a swizzled row too: the
// swizzle is a function of the final address.
//
// Swizzle ("Swizzling Modes" of tensors; Swizzle<3|2|1, 4, 3> in "Canonical Layouts"): chunks of 16 bytes change places
// within S bytes: bits 4.. of the address ^= bits 7.., of which 3 for S = 128, 2 for 64, 1 for 32. Tensor copies write
// and wgmma reads by the same rule, so a tile that a tensor copy has swizzled is one that wgmma understands.
//
// Accumulators ("Matrix Fragments for wgmma.mma_async.m64nNk16"): register e of thread t (0..127) of
// the four warps holds
//    row 16 (t / 32) + (t % 32) / 4 + 8 (e / 2 % 2), column 8 (e / 4) + 2 (t % 4) + e % 2.
//
// Tensor maps ("Tiled Mode", "Traversal-Stride", "Out of Boundary Access"; cuTensorMapEncodeTiled). Dimension 0 is
// contiguous, up to 5. Strides are multiples of 16 bytes, as is the base; a box has at most 256 elements a dimension;
// its dimension 0, times the element size, is a multiple of 16 bytes and at most S. Traversal strides are at most 8,
// and ceil(box / stride) elements are copied; coordinates count elements of the tensor, not steps. The box lies densely
// in shared memory, dimension 0 innermost, from an address aligned to 128. What is outside the tensor arrives as zeros,
// and counts among the bytes of the mbarrier as if it were inside.
// Hence a convolution needs no im2col mode: all taps of a kernel read boxes of a (C, W, H, N) map that are shifted by
// the tap, with traversal strides along W and H where the convolution has a stride, and zeros for its padding.
#pragma once

#include <cuda.h>

#include <type_traits>

#include "ptx.cuh"

namespace fastgan::cuda {

enum class Major : int { K = 0, MN = 1 };  // the index along which an operand is contiguous

#if defined(__CUDACC__)

// "cp.async.bulk.tensor", tiled mode: the box at these coordinates, by one thread. Its bytes count against those that
// `barrier` expects.
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int c0, int c1,
                                            int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int c0, int c1,
                                            int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// "bar.sync" with a name: `threads` of the block, whole warps, meet. 0 is the name of __syncthreads.
__device__ __forceinline__ void named_barrier(int name, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// The compiler does not know that an asynchronous wgmma still writes registers: after this it reads them anew.
__device__ __forceinline__ void reload(float& d) { asm volatile("" : "+f"(d)::"memory"); }
template <class Element, int kElements>
__device__ __forceinline__ void reload(Element (&d)[kElements]) {
#pragma unroll
  for (int i = 0; i < kElements; ++i) reload(d[i]);
}

// "wgmma.fence": orders what this thread did to its accumulators before the wgmma that use them next. Before the first
// one, and after the accumulators were used otherwise. d: an array of them, or an array of such arrays.
template <class Accumulators>
__device__ __forceinline__ void wgmma_fence(Accumulators& d) {
  reload(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// "wgmma.commit_group": the warp's wgmma since the last commit become a group.
__device__ __forceinline__ void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// "wgmma.wait_group": returns when all groups but the newest kNewestLeft have read their operands and written `d`.
template <int kNewestLeft, class Accumulators>
__device__ __forceinline__ void wgmma_wait_group(Accumulators& d) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewestLeft) : "memory");
  reload(d);
}

#define FASTGAN_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FASTGAN_D16(i) FASTGAN_D4(i), FASTGAN_D4(i + 4), FASTGAN_D4(i + 8), FASTGAN_D4(i + 12)
#define FASTGAN_D32(i) FASTGAN_D16(i), FASTGAN_D16(i + 16)
#define FASTGAN_D32_NAMES                                                                                          \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define FASTGAN_D64_NAMES                                                                                       \
  FASTGAN_D32_NAMES                                                                                             \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// Behind the accumulators: two descriptors, what of A and B is MN-major, and whether to add.
#define FASTGAN_WGMMA(shape, types, names, a_name, b_name, a_major, b_major, add, ...)                             \
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, " add ", 0;\n\t"                                          \
               "wgmma.mma_async.sync.aligned." shape ".f32." types " {" names "}, " a_name ", " b_name             \
               ", add, 1, 1, " a_major ", " b_major ";\n\t}"                                                       \
               : __VA_ARGS__                                                                                       \
               : "l"(a), "l"(b), "n"(static_cast<int>(kMajorA)), "n"(static_cast<int>(kMajorB)),                   \
                 "r"(static_cast<int>(accumulate)))
#define FASTGAN_WGMMA_64(types) \
  FASTGAN_WGMMA("m64n64k16", types, FASTGAN_D32_NAMES, "%32", "%33", "%34", "%35", "%36", FASTGAN_D32(0))
#define FASTGAN_WGMMA_128(types)                                                                                \
  FASTGAN_WGMMA("m64n128k16", types, FASTGAN_D64_NAMES, "%64", "%65", "%66", "%67", "%68", FASTGAN_D32(0), \
                FASTGAN_D32(32))

// "wgmma.mma_async" m64nNk16: d = A B, plus d where `accumulate`, with N = 2 * kRegisters, A and B named by
// descriptors. By all threads of 4 warps, the first of which has an index divisible by 4. Asynchronous: until a wait
// covers it, operands may be neither overwritten nor released and d not touched, except by further wgmma of the same
// shape. Operands that threads have stored need fence_proxy_async and a barrier first. T: __nv_bfloat16 or __half.
template <class T, Major kMajorA, Major kMajorB, int kRegisters>
__device__ __forceinline__ void wgmma(float (&d)[kRegisters], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kRegisters == 32 || kRegisters == 64, "written for N = 64 and N = 128");
  constexpr bool kBfloat16 = std::is_same_v<T, __nv_bfloat16>;
  static_assert(kBfloat16 || std::is_same_v<T, __half>, "elements are bfloat16 or half");
  if constexpr (kRegisters == 32 && kBfloat16) FASTGAN_WGMMA_64("bf16.bf16");
  if constexpr (kRegisters == 32 && !kBfloat16) FASTGAN_WGMMA_64("f16.f16");
  if constexpr (kRegisters == 64 && kBfloat16) FASTGAN_WGMMA_128("bf16.bf16");
  if constexpr (kRegisters == 64 && !kBfloat16) FASTGAN_WGMMA_128("f16.f16");
}

#undef FASTGAN_WGMMA_128
#undef FASTGAN_WGMMA_64
#undef FASTGAN_WGMMA
#undef FASTGAN_D64_NAMES
#undef FASTGAN_D32_NAMES
#undef FASTGAN_D32
#undef FASTGAN_D16
#undef FASTGAN_D4

#else  // the executor

using cuda_on_host::named_barrier;
using cuda_on_host::shared_address;
using cuda_on_host::tensor_copy;
using cuda_on_host::wgmma_commit_group;
using cuda_on_host::wgmma_fence;
using cuda_on_host::wgmma_wait_group;

template <class T, Major kMajorA, Major kMajorB, int kRegisters>
void wgmma(float (&d)[kRegisters], uint64_t a, uint64_t b, bool accumulate, CUDA_ON_HOST_WHERE) {
  cuda_on_host::wgmma<T>(d, kRegisters, {a, kMajorA == Major::MN}, {b, kMajorB == Major::MN}, accumulate, where);
}

#endif

}  // namespace fastgan::cuda
