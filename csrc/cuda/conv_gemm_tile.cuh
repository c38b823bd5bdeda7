// A block's matrix product for sm_80: out[M x N] += A[M x K] B[K x N], operands through a ring of shared memory filled by
// cp.async, multiplied by mma.sync, sums in registers; then the sums go to shared memory, from where rows are stored whole.
//
// A step of K is 64 bytes: 32 elements of 16 bits or 16 of tf32, two instructions deep. An operand lies in shared memory as
// it does in global memory, in chunks of 16 bytes, a copy each:
//   KContiguous   row = a row of A or column of B, 4 chunks of K        activations in conv_gemm; weights for Down
//   KStrided      row = one k, kExtent elements                        weights for Up; both operands of the weight gradient
// and is read by ldmatrix, KStrided by ldmatrix.trans, which has no 32-bit form: there single words are loaded.
//
// Bank conflicts. 8 threads (a phase of a 16-byte access) must touch 8 different chunks modulo 128 bytes, 32 threads of a
// 4-byte access 32 different words. OperandTile::swizzled permutes the chunks of a row so that copies and reads both do;
// static_asserts below hold it to that.
//
// Blocks of kM x kN, warps of kM / warps_m x 32 sums:
//   128 x 128   8 warps of 64 x 32   64 KiB of shared memory, 64 sums a thread
//   128 x 64    4 warps of 64 x 32   48 KiB
//   64 x 64     4 warps of 32 x 32   32 KiB
// A 64 x 32 warp loads 96 rows of K for 2048 multiply-adds a k: 3 bytes of shared memory for 64 of them, a third of what the
// tensor cores of an SM take in the same time.
#pragma once

#include "ptx.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastgan::cuda {

constexpr int kStages = 4, kStepBytes = 64, kChunkBytes = 16;

template <class T>
constexpr int kStep = kStepBytes / static_cast<int>(sizeof(T));

// Elements of K that one instruction takes.
template <class T>
constexpr int kInstructionK = kStep<T> / 2;

enum class KOrder { KContiguous, KStrided };
enum class Operand { A, B };

// Rows of 128 bytes or a multiple. 16-bit elements: 8 rows of one chunk are read at once. 32-bit: words of 4 rows and
// 2 neighbouring chunks.
template <class T>
__host__ __device__ constexpr int swizzled_in_long_row(int row, int chunk) {
  return sizeof(T) == 2 ? chunk ^ (row & 7) : chunk ^ (row & 3) * 2;
}

template <class T, KOrder kOrder, int kExtent>
struct OperandTile {
  static constexpr bool kContiguous = kOrder == KOrder::KContiguous;
  static constexpr int kRows = kContiguous ? kExtent : kStep<T>;
  static constexpr int kRowChunks = kContiguous ? kStepBytes / kChunkBytes : kExtent / kVector<T>;
  static constexpr int kChunks = kRows * kRowChunks, kBytes = kChunks * kChunkBytes;

  __host__ __device__ static constexpr int swizzled(int row, int chunk) {
    return kContiguous ? chunk ^ (row >> 1 & 3) : swizzled_in_long_row<T>(row, chunk);
  }
  __host__ __device__ static constexpr int offset(int row, int chunk) {
    return (row * kRowChunks + swizzled(row, chunk)) * kChunkBytes;
  }

  // Of the accesses described above, do any two of a phase meet in a bank?
  static constexpr bool reads_meet() {
    for (int first = 0; first < kRows; first += 4) {
      for (int chunk = 0; chunk < kRowChunks; chunk += 2) {
        unsigned banks = 0;
        if (kContiguous || sizeof(T) == 2) {  // ldmatrix: 8 rows, one chunk
          if (first % 8) continue;
          for (int i = 0; i < 8; ++i) banks |= 1u << offset(first + i, chunk) / kChunkBytes % 8;
        } else {  // 4 rows, two chunks
          for (int i = 0; i < 8; ++i) banks |= 1u << offset(first + i / 2, chunk + i % 2) / kChunkBytes % 8;
        }
        if (banks != 0xff) return true;
      }
    }
    return false;
  }
  static constexpr bool copies_meet() {
    for (int first = 0; first < kChunks; first += 8) {
      unsigned banks = 0;
      for (int i = first; i < first + 8; ++i) banks |= 1u << offset(i / kRowChunks, i % kRowChunks) / kChunkBytes % 8;
      if (banks != 0xff) return true;
    }
    return false;
  }
};

// Registers of one instruction's A, 16 rows, or of two instructions' B, 8 columns each; `extent` is the first of the 16,
// `k` counts instructions within the step. Matrix i of ldmatrix becomes register i: of A the halves of the 16 change first,
// of B the halves of K.
template <Operand kOperand, class T, KOrder kOrder, int kExtent>
__device__ __forceinline__ void load_fragment(uint32_t (&r)[4], const unsigned char* tile, int extent, int k) {
  using Tile = OperandTile<T, kOrder, kExtent>;
  const auto extent_half = [](int i) { return kOperand == Operand::A ? i & 1 : i >> 1; };
  const auto k_half = [](int i) { return kOperand == Operand::A ? i >> 1 : i & 1; };
  const int lane = threadIdx.x % kWarp, matrix = lane / 8;
  if constexpr (kOrder == KOrder::KContiguous) {
    ldmatrix_x4(r, tile + Tile::offset(extent + extent_half(matrix) * 8 + lane % 8, k * 2 + k_half(matrix)));
  } else if constexpr (sizeof(T) == 2) {
    ldmatrix_x4_trans(r, tile + Tile::offset((k * 2 + k_half(matrix)) * 8 + lane % 8, extent / 8 + extent_half(matrix)));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = (k * 2 + k_half(i)) * 4 + lane % 4, column = extent + extent_half(i) * 8 + lane / 4;
      r[i] = *reinterpret_cast<const uint32_t*>(tile + Tile::offset(row, column / 4) + column % 4 * 4);
    }
  }
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float x;
      memcpy(&x, &r[i], sizeof x);
      r[i] = to_tf32(x);
    }
  }
}

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16) {
  mma_m16n8k16_bf16(d, a, b);
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
  mma_m16n8k16_fp16(d, a, b);
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) {
  mma_m16n8k8_tf32(d, a, b);
}

// One chunk of an operand: the first `valid` elements (none where it is not positive) from global memory, zeros after them.
// Where rows of the image are no multiple of 16 bytes (by_chunk false), by loads and a store instead of an asynchronous
// copy; the barriers that order the copies order these too.
template <class T>
__device__ __forceinline__ void fill_chunk(unsigned char* shared, const T* global, int valid, bool by_chunk) {
  if (by_chunk) {
    cp_async_16(shared, global, valid > 0 ? kChunkBytes : 0);
    return;
  }
  float elements[kVector<T>];
#pragma unroll
  for (int v = 0; v < kVector<T>; ++v) elements[v] = v < valid ? to_float(global[v]) : 0.f;
  store(reinterpret_cast<T*>(shared), elements);
}

template <class Element, KOrder kOrderA, KOrder kOrderB, int kBlockM, int kBlockN>
struct BlockGemm {
  using T = Element;
  static constexpr int kM = kBlockM, kN = kBlockN;
  static constexpr int kWarpsM = 2, kWarpsN = kN / 32;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
  static constexpr int kBlocksAnSm = 512 / kThreads;  // as far as registers go: 128 a thread
  static constexpr int kTilesM = kM / kWarpsM / 16, kTilesN = 32 / 8;  // instructions of a warp
  using TileA = OperandTile<T, kOrderA, kM>;
  using TileB = OperandTile<T, kOrderB, kN>;
  static constexpr int kStageBytes = TileA::kBytes + TileB::kBytes, kSharedBytes = kStages * kStageBytes;
  static constexpr int kCopiesA = TileA::kChunks / kThreads, kCopiesB = TileB::kChunks / kThreads;
  static_assert(TileA::kChunks % kThreads == 0 && TileB::kChunks % kThreads == 0, "every thread copies equally much");
  static_assert(!TileA::reads_meet() && !TileA::copies_meet() && !TileB::reads_meet() && !TileB::copies_meet(), "bank conflicts");
  static_assert(kM * kN * 4 <= kSharedBytes, "the sums fit into the ring");

  unsigned char* shared;
  float sum[kTilesM][kTilesN][4];

  __device__ __forceinline__ static int warp_row() { return threadIdx.x / kWarp / kWarpsN * (kM / kWarpsM); }
  __device__ __forceinline__ static int warp_column() { return threadIdx.x / kWarp % kWarpsN * 32; }

  // Adds up `steps` steps; fill(a, b) issues the copies of the next step to the tiles at a and b, and is called `steps` times.
  template <class Fill>
  __device__ __forceinline__ void run(int steps, Fill&& fill) {
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] = 0.f;
      }
    }
    const auto fill_step = [&](int step) {
      unsigned char* stage = shared + step % kStages * kStageBytes;
      if (step < steps) fill(stage, stage + TileA::kBytes);
      cp_async_commit_group();
    };
    for (int step = 0; step < kStages - 1; ++step) fill_step(step);
    for (int step = 0; step < steps; ++step) {
      cp_async_wait_group<kStages - 2>();
      __syncthreads();  // this step is here for all threads, and all are done with the one before
      fill_step(step + kStages - 1);
      multiply_stage(shared + step % kStages * kStageBytes);
    }
    cp_async_wait_group<0>();
    __syncthreads();  // the ring is free
  }

  __device__ __forceinline__ void multiply_stage(const unsigned char* stage) {
#pragma unroll(sizeof(T) == 2 ? 2 : 1)  // words loaded for two instructions of tf32 would not fit the registers
    for (int k = 0; k < 2; ++k) {
      uint32_t a[kTilesM][4], b[kTilesN / 2][4];
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) load_fragment<Operand::A, T, kOrderA, kM>(a[i], stage, warp_row() + i * 16, k);
#pragma unroll
      for (int j = 0; j < kTilesN / 2; ++j) {
        load_fragment<Operand::B, T, kOrderB, kN>(b[j], stage + TileA::kBytes, warp_column() + j * 16, k);
      }
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
        for (int j = 0; j < kTilesN; ++j) {
          const uint32_t half[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          multiply(sum[i][j], a[i], half, T{});
        }
      }
    }
  }

  // Calls body(row, column, first, second) for the thread's sums in pairs of neighbouring columns.
  template <class Body>
  __device__ __forceinline__ void for_each_pair(Body&& body) {
    const int lane = threadIdx.x % kWarp, row = warp_row() + lane / 4, column = warp_column() + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        body(row + i * 16, column + j * 8, sum[i][j][0], sum[i][j][1]);
        body(row + i * 16 + 8, column + j * 8, sum[i][j][2], sum[i][j][3]);
      }
    }
  }

  // Where the sums (row, column) ... (row, column + 3) lie in the ring once they are there.
  __device__ __forceinline__ float* sums_at(int row, int column) const {
    const int chunk = swizzled_in_long_row<float>(row, column / 4);
    return reinterpret_cast<float*>(shared) + row * kN + chunk * 4;
  }

  // The sums go through shared memory, then body(row, column, sums) is called for V neighbouring columns each, rows of kN / V
  // threads after each other. A thread's column is always the same: column_of<V>().
  template <int V, class Body>
  __device__ __forceinline__ void for_each_vector(Body&& body) {
    for_each_pair([&](int row, int column, float first, float second) {
      *reinterpret_cast<float2*>(sums_at(row, column) + column % 4) = make_float2(first, second);
    });
    __syncthreads();
    static_assert(kThreads % (kN / V) == 0 && V % 4 == 0, "a thread's column is always the same");
    for (int row = threadIdx.x / (kN / V); row < kM; row += kThreads / (kN / V)) {
      float sums[V];
#pragma unroll
      for (int v = 0; v < V; v += 4) {
        const float4 four = *reinterpret_cast<const float4*>(sums_at(row, column_of<V>() + v));
        sums[v] = four.x, sums[v + 1] = four.y, sums[v + 2] = four.z, sums[v + 3] = four.w;
      }
      body(row, sums);
    }
  }
  template <int V>
  __device__ __forceinline__ static int column_of() {
    return threadIdx.x % (kN / V) * V;
  }
};

// Stores the first `valid` of V neighbouring elements.
template <class T, int V>
__device__ __forceinline__ void store_first(T* to, const float (&values)[V], int valid, bool by_vector) {
  if (by_vector) {
    if (valid > 0) store(to, values);
    return;
  }
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (v < valid) to[v] = from_float<T>(values[v]);
  }
}

}  // namespace fastgan::cuda
