// Small kernels over all of ptx_sm90a.cuh: every operand layout, tensor maps of images, and faults that can be switched
// on. Compiled for the executor, whose tests they are, and by nvcc for benchmarks/gpu_layouts.py, which checks on a GPU
// what the executor believes of descriptors, swizzles, accumulators and tensor maps.
//
//   product    C = A B: tiles of A and B by tensor copies through a ring of two stages, multiplied by wgmma
//   stored     C = A B of one tile whose operands threads have stored themselves
//   gathered   the pixels of a box of an image, as tensor copies see them
#pragma once

#include "tensor_map_sm90a.cuh"
#include "wgmma_tile_sm90a.cuh"

namespace fastgan::cuda {

enum class TensorFault : int {
  None,
  // product
  OtherSwizzle,
  StrideTwiceAsLong,
  LeadingTwiceAsLong,
  MisalignedTile,
  NoWaitForTile,
  ReleasedBeforeWait,
  NoFence,
  NoWait,
  WaitOneGroupTooFew,
  AccumulatorUsedInFlight,
  TooFewBytes,
  // stored
  NoProxyFence,
  NoBarrier,
};

constexpr int kProductDepth = 64, kProductStages = 2;

// C (kM, kN) = A B over `steps` tiles of k. A (kM, K) and B (K, kN) lie in memory as their majors say. kM / 64
// warpgroups multiply, one warp more copies.
template <class T, Major kMajorA, Major kMajorB, int kM, int kN, int S>
__global__ void __launch_bounds__(kM * 2 + 32)
    product(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b, float* c, int steps,
            TensorFault fault) {
  using TileA = WgmmaTile<kMajorA, kM, kProductDepth, S>;
  using TileB = WgmmaTile<kMajorB, kN, kProductDepth, S>;
  constexpr int kStageBytes = TileA::kBytes + TileB::kBytes, kWarps = kM / 16;
  FASTGAN_DYNAMIC_SHARED(dynamic);
  FASTGAN_SHARED(uint64_t, full, kProductStages);
  FASTGAN_SHARED(uint64_t, empty, kProductStages);
  unsigned char* ring = dynamic + (0u - shared_address(dynamic)) % TileA::kAlignment;
  if (fault == TensorFault::MisalignedTile) ring += 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kProductStages; ++stage) {
      mbarrier_init(full + stage, 1);
      mbarrier_init(empty + stage, kWarps);
    }
    fence_proxy_async();
  }
  __syncthreads();

  const int warp = threadIdx.x / 32;
  if (warp == kWarps) {
    if (threadIdx.x % 32 != 0) return;
    for (int step = 0; step < steps; ++step) {
      const int stage = step % kProductStages, k = step * kProductDepth;
      unsigned char* a = ring + stage * kStageBytes;
      mbarrier_wait(empty + stage, step / kProductStages % 2 ^ 1);
      mbarrier_arrive_expect_tx(full + stage, kStageBytes - (fault == TensorFault::TooFewBytes ? 128 : 0));
      for (int box = 0; box < TileA::kBoxes; ++box) {
        const int along = box * TileA::kBoxWidth;
        tensor_copy(a + box * TileA::kBoxBytes, &map_a, full + stage, kMajorA == Major::K ? k + along : along,
                    kMajorA == Major::K ? 0 : k);
      }
      for (int box = 0; box < TileB::kBoxes; ++box) {
        const int along = box * TileB::kBoxWidth;
        tensor_copy(a + TileA::kBytes + box * TileB::kBoxBytes, &map_b, full + stage,
                    kMajorB == Major::K ? k + along : along, kMajorB == Major::K ? 0 : k);
      }
    }
    return;
  }

  float d[kN / 2];
  for (int i = 0; i < kN / 2; ++i) d[i] = 0.f;
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kProductStages;
    const uint32_t a = shared_address(ring + stage * kStageBytes);
    if (fault != TensorFault::NoWaitForTile) mbarrier_wait(full + stage, step / kProductStages % 2);
    if (fault != TensorFault::NoFence) wgmma_fence(d);
#pragma unroll
    for (int i = 0; i < kProductDepth / 16; ++i) {
      uint64_t of_a = TileA::descriptor(a, warp / 4 * 64, i);
      const uint64_t of_b = TileB::descriptor(a + TileA::kBytes, 0, i);
      if (fault == TensorFault::OtherSwizzle) of_a ^= uint64_t{3} << 62;
      if (fault == TensorFault::StrideTwiceAsLong) of_a += uint64_t{TileA::kStride / 16} << 32;
      if (fault == TensorFault::LeadingTwiceAsLong) of_a += uint64_t{TileA::kLeading / 16} << 16;
      wgmma<T, kMajorA, kMajorB>(d, of_a, of_b, true);
    }
    wgmma_commit_group();
    if (fault == TensorFault::ReleasedBeforeWait && threadIdx.x % 32 == 0) mbarrier_arrive(empty + stage);
    if (fault == TensorFault::AccumulatorUsedInFlight) d[0] += 1.f;
    if (fault == TensorFault::WaitOneGroupTooFew) {
      wgmma_wait_group<1>(d);
    } else if (fault != TensorFault::NoWait) {
      wgmma_wait_group<0>(d);
    }
    if (fault != TensorFault::ReleasedBeforeWait && threadIdx.x % 32 == 0) mbarrier_arrive(empty + stage);
  }
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < kN / 2; ++i) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    c[row * kN + column] = d[i];
  }
}

// C (64, 64) = A B, both K-major with a swizzle of 128 bytes, A (64, 64) and B (64 columns, 64) row by row. 128
// threads.
template <class T>
__global__ void __launch_bounds__(128) stored(const T* a, const T* b, float* c, TensorFault fault) {
  using Tile = WgmmaTile<Major::K, 64, 64>;
  FASTGAN_DYNAMIC_SHARED(dynamic);
  unsigned char* tiles = dynamic + (0u - shared_address(dynamic)) % Tile::kAlignment;
  for (int i = threadIdx.x; i < 64 * 64; i += 128) {
    const int row = i / 64, byte = row * 128 + i % 64 * 2, swizzled = byte ^ row % 8 * 16;
    *reinterpret_cast<T*>(tiles + swizzled) = a[i];
    *reinterpret_cast<T*>(tiles + Tile::kBytes + swizzled) = b[i];
  }
  if (fault != TensorFault::NoProxyFence) fence_proxy_async();
  if (fault != TensorFault::NoBarrier) named_barrier(1, 128);
  float d[32];
  for (int i = 0; i < 32; ++i) d[i] = 0.f;
  const uint32_t address = shared_address(tiles);
  wgmma_fence(d);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    wgmma<T, Major::K, Major::K>(d, Tile::descriptor(address, 0, step),
                                 Tile::descriptor(address + Tile::kBytes, 0, step), step > 0);
  }
  wgmma_commit_group();
  wgmma_wait_group<0>(d);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = 0; i < 32; ++i) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    c[row * 64 + column] = d[i];
  }
}

// out: the bytes of shared memory that the box of 64 channels at (c, x, y, n) of `map` fills, 16-bit elements, in their
// order there. 32 threads.
__global__ void gathered(const __grid_constant__ CUtensorMap map, uint16_t* out, int elements, int c, int x, int y,
                         int n) {
  FASTGAN_DYNAMIC_SHARED(dynamic);
  FASTGAN_SHARED(uint64_t, full, 1);
  unsigned char* box = dynamic + (0u - shared_address(dynamic)) % 1024;
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    fence_proxy_async();
    mbarrier_arrive_expect_tx(full, elements * 2);
    tensor_copy(box, &map, full, c, x, y, n);
  }
  __syncthreads();
  mbarrier_wait(full, 0);
  for (int i = threadIdx.x; i < elements; i += 32) out[i] = reinterpret_cast<const uint16_t*>(box)[i];
}

}  // namespace fastgan::cuda
