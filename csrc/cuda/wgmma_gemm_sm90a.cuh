// A block's matrix products for sm_90a: out[kM x kN] = A[kM x K] B[K x kN], one tile after the other, operands through
// a ring of shared memory filled by tensor copies, multiplied by wgmma, sums in registers.
//
// Roles      Warps 0..7 are two warpgroups that multiply, kM / 2 rows each; one thread of warp 8 copies, up to kStages
//            steps of 64 in K ahead and past the end of a tile: the epilogue of one tile runs beside the copies of the
//            next. Both walk over the same tiles and steps in the same order; mbarriers `full` and `empty` of each
//            stage hold them together.
// Registers  A warpgroup has kFragments blocks of 64 rows, kN / 2 sums a thread and block. ptxas counts whole
//            warpgroups, 384 threads: 168 registers a thread, which 128 sums and all else fit into, so that no
//            warpgroup needs to give any to another (setmaxnreg).
// Tiles, counted at the rate of the tensor cores, 2048 multiply-adds a cycle and multiprocessor: an m64n128k16 takes 64
// cycles and reads 2 KiB of A and 4 KiB of B from shared memory, an m64n64k16 32 cycles, 2 and 2 KiB. Shared memory
// gives 128 bytes a cycle and takes in what is copied, too.
//
//   kM x kN     sums a thread   stage    stages   a step's   read, written: bytes a cycle    from L2
//                                                 cycles     of shared memory
//   128 x 64     32             24 KiB   8         256       128 + 96                        96
//   128 x 128    64             32 KiB   6         512        96 + 64                        64
//   256 x 128   128             48 KiB   4        1024        96 + 48                        48
//
// If copies share its port, shared memory allows 128 x 64 57 % of that rate, 128 x 128 80 % and 256 x 128 89 %; the
// bytes from L2 rank them the same.
#pragma once

#include "reduce.cuh"
#include "vec.cuh"
#include "wgmma_tile_sm90a.cuh"

namespace fastgan::cuda {

constexpr int kStepsOfLaunch = 8;  // as long as a small launch behind this one: 2 us, at 0.25 us for 128 x 128 x 64

template <class Element, Major kMajorA, Major kMajorB, int kRows, int kColumns>
struct WgmmaGemm {
  using T = Element;
  static constexpr int kM = kRows, kN = kColumns, kDepth = 64, kFragments = kM / 128;
  using A = WgmmaTile<kMajorA, kM, kDepth>;
  using B = WgmmaTile<kMajorB, kN, kDepth>;
  using Sums = float[kFragments][kN / 2];

  static constexpr int kConsumerWarps = 8, kConsumers = kConsumerWarps * kWarp, kThreads = kConsumers + kWarp;
  static constexpr int kStageBytes = A::kBytes + B::kBytes, kStages = (192 << 10) / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + A::kAlignment;

  // A thread's view of the ring: its place, and the parity of the round.
  class Ring {
   public:
    // By all threads of the block, before anything else.
    __device__ __forceinline__ explicit Ring(unsigned char* dynamic) {
      FASTGAN_SHARED(uint64_t, full, kStages);
      FASTGAN_SHARED(uint64_t, empty, kStages);
      stages_ = dynamic + (0u - shared_address(dynamic)) % A::kAlignment;
      full_ = full;
      empty_ = empty;
      if (threadIdx.x == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
          mbarrier_init(full + stage, 1);
          mbarrier_init(empty + stage, kConsumerWarps);
        }
        fence_proxy_async();
      }
      __syncthreads();
    }

    // One step, when its stage is free: copy(a, b, barrier) issues the tensor copies of all of A and B.
    template <class Copy>
    __device__ __forceinline__ void fill(Copy&& copy) {
      unsigned char* a = stages_ + place_ * kStageBytes;
      mbarrier_wait(empty_ + place_, parity_ ^ 1);
      mbarrier_arrive_expect_tx(full_ + place_, kStageBytes);
      copy(a, a + A::kBytes, full_ + place_);
      next();
    }

    // The sums of `steps` > 0 steps. One step's products are on their way while the next one's are issued.
    __device__ __forceinline__ void multiply(Sums& d, int steps) {
      const int row = threadIdx.x / kWarp / 4 * (kM / 2);
      uint64_t* previous = nullptr;
      for (int step = 0; step < steps; ++step, next()) {
        const uint32_t a = shared_address(stages_ + place_ * kStageBytes), b = a + A::kBytes;
        mbarrier_wait(full_ + place_, parity_);
        wgmma_fence(d);
#pragma unroll
        for (int i = 0; i < kDepth / 16; ++i) {
#pragma unroll
          for (int f = 0; f < kFragments; ++f) {
            wgmma<T, kMajorA, kMajorB>(d[f], A::descriptor(a, row + f * 64, i), B::descriptor(b, 0, i),
                                       step > 0 || i > 0);
          }
        }
        wgmma_commit_group();
        wgmma_wait_group<1>(d);
        if (previous && threadIdx.x % kWarp == 0) mbarrier_arrive(previous);
        previous = empty_ + place_;
      }
      wgmma_wait_group<0>(d);
      if (threadIdx.x % kWarp == 0) mbarrier_arrive(previous);
    }

   private:
    __device__ __forceinline__ void next() {
      if (++place_ == kStages) {
        place_ = 0;
        parity_ ^= 1;
      }
    }

    unsigned char* stages_;
    uint64_t *full_, *empty_;
    int place_ = 0;
    uint32_t parity_ = 0;
  };

  // The thread's sums, `half` 0 or 1: d[f][j * 4 + half * 2 + e] is that of row_of(f, half) and column_of(j) + e.
  __device__ __forceinline__ static int row_of(int f, int half) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    return warp / 4 * (kM / 2) + f * 64 + warp % 4 * 16 + half * 8 + lane / 4;
  }
  __device__ __forceinline__ static int column_of(int j) { return j * 8 + threadIdx.x % 4 * 2; }

  // Calls update(j, z) for the sums of two neighbouring columns each, and keeps what it makes of z.
  template <class Update>
  __device__ __forceinline__ static void update_pairs(Sums& d, Update&& update) {
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float* sums = d[f] + j * 4 + half * 2;
          float z[2] = {sums[0], sums[1]};
          update(j, z);
          sums[0] = z[0], sums[1] = z[1];
        }
      }
    }
  }

  // Calls store(j, f, half, pair) for the sums as they are, two neighbouring columns each.
  template <class Store>
  __device__ __forceinline__ static void for_each_pair(const Sums& d, Store&& store) {
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          store(j, f, half, make_float2(d[f][j * 4 + half * 2], d[f][j * 4 + half * 2 + 1]));
        }
      }
    }
  }

  // Calls store(group, f, half, vector) for the sums rounded to T, 8 neighbouring columns each, the first being
  // column_of_group(group): the 4 lanes of a row exchange what they hold, so that together they store 64 bytes.
  template <class Store>
  __device__ __forceinline__ static void for_each_vector(const Sums& d, Store&& store) {
#pragma unroll
    for (int group = 0; group < kN / 32; ++group) {
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t r[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int e = (group * 4 + j) * 4 + half * 2;
            r[j] = pack(d[f][e], d[f][e + 1]);
          }
          transpose_quad(r);
          store(group, f, half, make_uint4(r[0], r[1], r[2], r[3]));
        }
      }
    }
  }
  __device__ __forceinline__ static int column_of_group(int group) { return group * 32 + threadIdx.x % 4 * 8; }

 private:
  __device__ __forceinline__ static uint32_t pack(float low, float high) {
    const T pair[2] = {from_float<T>(low), from_float<T>(high)};
    uint32_t packed;
    memcpy(&packed, pair, sizeof packed);
    return packed;
  }

  // Lane q of 4 has registers [q][0..3] and gets [0..3][q].
  __device__ __forceinline__ static void transpose_quad(uint32_t (&r)[4]) {
    const int lane = threadIdx.x % kWarp;
    const auto swap = [&](uint32_t& low, uint32_t& high, int distance) {
      const bool upper = lane & distance;
      const uint32_t received = __shfl_xor_sync(kFullMask, upper ? low : high, distance);
      (upper ? low : high) = received;
    };
    swap(r[0], r[2], 2);
    swap(r[1], r[3], 2);
    swap(r[0], r[1], 1);
    swap(r[2], r[3], 1);
  }
};

}  // namespace fastgan::cuda
