// Small kernels that use every wrapper of ptx.cuh and every way of ordering threads, each with faults that can be
// switched on: the tests of the executor itself. Compiled by nvcc too, which checks the PTX.
//
//   gemm      tiles of A and B in two stages, filled by cp.async while the other stage is computed on
//   ring      one thread fills a ring of slots by bulk copies, 64 threads empty it; mbarriers in both directions
//   grid_sum  shuffles, __syncwarp and a block barrier; the last block to finish adds up what the others left
//   relay     a cooperative launch: in every round a thread hands its number to one of the next block
#pragma once

#include "cooperative.cuh"
#include "ptx.cuh"

namespace fastgan::cuda {

enum class Fault : int {
  None,
  // gemm
  NoWait,
  WaitOneGroupTooFew,
  NoBarrierAfterWait,
  NoBarrierBeforeRefill,
  SourceOverwritten,
  CopyPastTheEnd,
  // ring
  PhaseNeverFlips,
  TooManyBytesExpected,
  TooFewBytesExpected,
  SlotNotAwaited,
  NoProxyFence,
  // grid_sum
  DivergentShuffle,
  NoSyncwarp,
  NoBarrier,
  StorePastTheEnd,
  TwoBlocksOneAddress,
  NoFence,
  // relay
  NoGridBarrierBeforeRead,
  NoGridBarrierBeforeWrite,
  BlockLeaves,
};

constexpr int kTile = 8;

// C = A B + bias; A (M, K), B (K, N), C (M, N), row by row, K % 4 == 0, N even. A thread computes one element of C.
__global__ void gemm(float* a, const float* b, const float* bias, float* c, int m, int n, int k, Fault fault) {
  constexpr int kStage = kTile * kTile;
  FASTGAN_SHARED(float, a_tile, 2 * kStage);
  FASTGAN_SHARED(float, b_tile, 2 * kStage);
  FASTGAN_SHARED(float, bias_tile, kTile);
  const int thread = threadIdx.x, row = thread / kTile, column = thread % kTile;
  const int m0 = blockIdx.y * kTile, n0 = blockIdx.x * kTile;

  const auto fill = [&](int step) {
    const int stage = (fault == Fault::CopyPastTheEnd ? step : step % 2) * kStage, k0 = step * kTile;
    if (thread < kStage / 4) {  // 16 bytes each: a row of the tile is two
      const int i = thread / 2, j = thread % 2 * 4;
      const bool inside = m0 + i < m && k0 + j < k;
      cp_async_16(a_tile + stage + i * kTile + j, inside ? a + (m0 + i) * k + k0 + j : a, inside ? 16 : 0);
    }
    const bool inside = k0 + row < k && n0 + column < n;
    cp_async_4(b_tile + stage + thread, inside ? b + (k0 + row) * n + n0 + column : b, inside ? 4 : 0);
  };

  if (thread < kTile / 2) {
    const bool inside = n0 + thread * 2 < n;
    cp_async_8(bias_tile + thread * 2, inside ? bias + n0 + thread * 2 : bias, inside ? 8 : 0);
  }
  fill(0);
  cp_async_commit_group();
  if (fault == Fault::SourceOverwritten && thread == 0) a[m0 * k] = 0.f;
  const int steps = (k + kTile - 1) / kTile;
  float sum = 0.f;
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) fill(step + 1);
    cp_async_commit_group();
    if (fault == Fault::WaitOneGroupTooFew) {
      cp_async_wait_group<2>();
    } else if (fault != Fault::NoWait) {
      cp_async_wait_group<1>();
    }
    if (fault != Fault::NoBarrierAfterWait) __syncthreads();
    const int stage = step % 2 * kStage;
    for (int i = 0; i < kTile; ++i) {
      const float x = a_tile[stage + row * kTile + i];
      const float y = b_tile[stage + i * kTile + column];
      sum = fmaf(x, y, sum);
    }
    if (fault != Fault::NoBarrierBeforeRefill) __syncthreads();
  }
  if (m0 + row < m && n0 + column < n) c[(m0 + row) * n + n0 + column] = sum + bias_tile[column];
}

constexpr int kSlots = 3, kConsumers = 64, kProducers = 32;

// out[block][i] = element i of the last chunk + half of the one before's + a quarter ...
// in (gridDim.x, chunks, kConsumers), out (gridDim.x, kConsumers).
__global__ void ring(const float* in, float* out, int chunks, Fault fault) {
#if FASTGAN_SM90
  FASTGAN_SHARED(float, slots, kSlots * kConsumers);
  FASTGAN_SHARED(uint64_t, full, kSlots);
  FASTGAN_SHARED(uint64_t, empty, kSlots);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kSlots; ++slot) {
      mbarrier_init(full + slot, 1);
      mbarrier_init(empty + slot, kConsumers);
    }
    if (fault != Fault::NoProxyFence) fence_proxy_async();
  }
  __syncthreads();
  in += static_cast<int64_t>(blockIdx.x) * chunks * kConsumers;
  if (threadIdx.x < kProducers) {
    if (threadIdx.x != 0) return;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int slot = chunk % kSlots, round = chunk / kSlots;
      if (fault != Fault::SlotNotAwaited) mbarrier_wait(empty + slot, round % 2 ^ 1);
      constexpr uint32_t kBytes = kConsumers * sizeof(float);
      uint32_t expected = kBytes;
      if (fault == Fault::TooManyBytesExpected) expected = 2 * kBytes;
      if (fault == Fault::TooFewBytesExpected) expected = kBytes / 2;
      mbarrier_arrive_expect_tx(full + slot, expected);
      bulk_copy(slots + slot * kConsumers, in + chunk * kConsumers, kBytes, full + slot);
    }
  } else {
    const int i = threadIdx.x - kProducers;
    float sum = 0.f;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int slot = chunk % kSlots, round = chunk / kSlots;
      mbarrier_wait(full + slot, fault == Fault::PhaseNeverFlips ? 0 : round % 2);
      sum = 0.5f * sum + slots[slot * kConsumers + i];
      mbarrier_arrive(empty + slot);
    }
    out[blockIdx.x * kConsumers + i] = sum;
  }
#endif
}

constexpr int kSumWarps = 2, kSumThreads = 32 * kSumWarps;

// *out = sum of in[0 .. gridDim.x * kSumThreads); partial (gridDim.x,), *finished starts at 0.
__global__ void grid_sum(const float* in, float* partial, unsigned* finished, float* out, Fault fault) {
  FASTGAN_SHARED(float, of_thread, kSumThreads);
  FASTGAN_SHARED(float, of_warp, kSumWarps);
  FASTGAN_SHARED(bool, last_block, 1);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  of_thread[thread] = in[blockIdx.x * kSumThreads + thread];
  if (fault != Fault::NoSyncwarp) __syncwarp();
  float sum = of_thread[thread];
  sum += of_thread[thread ^ 16];
  if (fault != Fault::DivergentShuffle || lane < 16) {
    for (int distance = 8; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
  }
  const int place = fault == Fault::StorePastTheEnd ? warp + 1 : warp;
  if (lane == 0) of_warp[place] = sum;
  if (fault != Fault::NoBarrier) __syncthreads();
  if (thread == 0) {
    const int mine = fault == Fault::TwoBlocksOneAddress ? 0 : blockIdx.x;
    float of_block = of_warp[0];
    of_block += of_warp[1];
    partial[mine] = of_block;
    if (fault != Fault::NoFence) __threadfence();
    *last_block = atomicAdd(finished, 1u) == gridDim.x - 1;
    if (fault != Fault::NoFence) __threadfence();
  }
  __syncthreads();
  if (!*last_block || thread != 0) return;
  float total = 0.f;
  for (int i = 0; i < static_cast<int>(gridDim.x); ++i) {
    const float of_other = partial[i];
    total += of_other;
  }
  *out = total;
}

constexpr int kRelayThreads = 40, kRelayRounds = 3;

// out: in[] after kRelayRounds steps of one block and one thread each. held, in, out (gridDim.x, kRelayThreads).
__global__ void relay(const float* in, float* held, float* out, Fault fault) {
  const int thread = threadIdx.x, mine = blockIdx.x * kRelayThreads + thread;
  const int other = (blockIdx.x + 1) % gridDim.x * kRelayThreads + (thread + 1) % kRelayThreads;
  float value = in[mine];
  for (int round = 0; round < kRelayRounds; ++round) {
    held[mine] = value;
    if (fault == Fault::BlockLeaves && blockIdx.x == 1 && round == 1) return;
    if (fault != Fault::NoGridBarrierBeforeRead) grid_sync();
    value = held[other];
    if (fault != Fault::NoGridBarrierBeforeWrite) grid_sync();
  }
  out[mine] = value;
}

}  // namespace fastgan::cuda
