// A block's matrix product for sm_80: out[M x N] += A[M x K] B[K x N], operands through a ring of shared memory filled by
// cp.async, sums in registers; then the sums go to shared memory, from where rows are stored whole.
//
// A step of K is 64 bytes: 32 elements of 16 bits or 16 of 32. An operand lies in shared memory as it does in global memory, in
// chunks of 16 bytes, a copy each:
//   KContiguous   row = a row of A or column of B, 4 chunks of K        activations in conv_gemm; weights for Down
//   KStrided      row = one k, kExtent elements                        weights for Up; both operands of the weight gradient
//
// Two ways to multiply:
//   TensorCores<T>     mma.sync; operands by ldmatrix, KStrided by ldmatrix.trans, which has no 32-bit form: there single
//                      words are loaded. T = float: rounded to tf32.
//   MultiplyAdd        float by fused multiply-adds of single threads, 8 x 8 sums each, K in order. A chunk, whichever
//                      way it lies, is 4 numbers of one row or of one k: of each operand 8 chunks for 256 multiply-adds.
//
// Bank conflicts. 8 threads (a phase of a 16-byte access) must touch 8 different chunks modulo 128 bytes, 32 threads of a
// 4-byte access 32 different words, the half warp of a MultiplyAdd its 4 different chunks. OperandTile::swizzled permutes the
// chunks of a row so that copies and reads both do; static_asserts below hold it to that.
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

enum class KOrder { KContiguous, KStrided };
enum class Operand { A, B };
enum class Reader { TensorCores, MultiplyAdd };

// Rows of 128 bytes or a multiple. 16-bit elements: 8 rows of one chunk are read at once. 32-bit: words of 4 rows and
// 2 neighbouring chunks.
template <class T>
__host__ __device__ constexpr int swizzled_in_long_row(int row, int chunk) {
  return sizeof(T) == 2 ? chunk ^ (row & 7) : chunk ^ (row & 3) * 2;
}

template <class T, KOrder kOrder, int kExtent, Reader kReader>
struct OperandTile {
  static constexpr bool kContiguous = kOrder == KOrder::KContiguous;
  static constexpr int kRows = kContiguous ? kExtent : kStep<T>;
  static constexpr int kRowChunks = kContiguous ? kStepBytes / kChunkBytes : kExtent / kVector<T>;
  static constexpr int kChunks = kRows * kRowChunks, kBytes = kChunks * kChunkBytes;

  __host__ __device__ static constexpr int swizzled(int row, int chunk) {
    if (kContiguous) return chunk ^ (row >> 1 & 3);
    return kReader == Reader::TensorCores ? swizzled_in_long_row<T>(row, chunk) : chunk;
  }
  __host__ __device__ static constexpr int offset(int row, int chunk) {
    return (row * kRowChunks + swizzled(row, chunk)) * kChunkBytes;
  }

  // Do any two of `count` accesses meet in a bank? at(i): the offset of access i.
  template <class At>
  static constexpr bool meet(int count, At&& at) {
    unsigned banks = 0;
    for (int i = 0; i < count; ++i) {
      const unsigned bank = 1u << at(i) / kChunkBytes % 8;
      if (banks & bank) return true;
      banks |= bank;
    }
    return false;
  }
  // Those of the tensor cores: ldmatrix takes one chunk of 8 rows, words are those of 4 rows in two chunks.
  static constexpr bool matrix_reads_meet() {
    constexpr bool kWords = !kContiguous && sizeof(T) == 4;
    for (int first = 0; first < kRows; first += kWords ? 4 : 8) {
      for (int chunk = 0; chunk < kRowChunks; chunk += 2) {
        const auto at = [&](int i) { return kWords ? offset(first + i / 2, chunk + i % 2) : offset(first + i, chunk); };
        if (meet(8, at)) return true;
      }
    }
    return false;
  }
  // Those of MultiplyAdd: half a warp takes one chunk of 4 rows that are `step` apart, or 4 chunks of one row.
  static constexpr bool chunk_reads_meet(int step) {
    for (int row = 0; row < kRows; ++row) {
      for (int chunk = 0; chunk < kRowChunks; ++chunk) {
        const auto at = [&](int i) { return kContiguous ? offset(row + i * step, chunk) : offset(row, chunk + i); };
        const bool first = kContiguous ? row % (4 * step) < step : chunk % 4 == 0;
        if (first && meet(4, at)) return true;
      }
    }
    return false;
  }
  static constexpr bool copies_meet() {
    for (int first = 0; first < kChunks; first += 8) {
      if (meet(8, [&](int i) { return offset((first + i) / kRowChunks, (first + i) % kRowChunks); })) return true;
    }
    return false;
  }
};

// Registers of one instruction's A, 16 rows, or of two instructions' B, 8 columns each; `extent` is the first of the 16,
// `k` counts instructions within the step. Matrix i of ldmatrix becomes register i: of A the halves of the 16 change first,
// of B the halves of K.
template <Operand kOperand, class T, KOrder kOrder, int kExtent>
__device__ __forceinline__ void load_fragment(uint32_t (&r)[4], const unsigned char* tile, int extent, int k) {
  using Tile = OperandTile<T, kOrder, kExtent, Reader::TensorCores>;
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

// A warp's part of the product, 16 * kTilesM rows by kWarpColumns columns of the block's. A lane holds the sums at(i, j) of
// row(i) and column(j), counted from the part's first; columns 2 j and 2 j + 1 are neighbours. Lanes that differ in
// row_bit(0), (1) and (2) of their numbers alone hold other rows of the same columns.
constexpr int kWarpColumns = 32, kWarpsM = 2;

template <class T, KOrder kOrderA, KOrder kOrderB, int kM, int kN>
struct MatrixWarp {
  static constexpr int kTilesM = kM / kWarpsM / 16, kTilesN = kWarpColumns / 8;  // instructions
  static constexpr int kRows = kTilesM * 2, kColumns = kTilesN * 2;
  using TileA = OperandTile<T, kOrderA, kM, Reader::TensorCores>;
  using TileB = OperandTile<T, kOrderB, kN, Reader::TensorCores>;
  static constexpr bool kRegistersToSpare = true;
  static_assert(!TileA::matrix_reads_meet() && !TileB::matrix_reads_meet(), "bank conflicts");

  float sum[kTilesM][kTilesN][4];

  __device__ __forceinline__ float& at(int i, int j) { return sum[i / 2][j / 2][i % 2 * 2 + j % 2]; }
  __device__ __forceinline__ static constexpr int row_bit(int n) { return 4 << n; }
  __device__ __forceinline__ static int row(int i) { return i * 8 + threadIdx.x % kWarp / 4; }
  __device__ __forceinline__ static int column(int j) { return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }

  // += A B, a step of K. The warp's part begins at row `first_row` of A and column `first_column` of B.
  __device__ __forceinline__ void multiply_add(const unsigned char* tile_a, const unsigned char* tile_b, int first_row,
                                               int first_column) {
#pragma unroll(sizeof(T) == 2 ? 2 : 1)  // words loaded for two instructions of tf32 would not fit the registers
    for (int k = 0; k < 2; ++k) {
      uint32_t a[kTilesM][4], b[kTilesN / 2][4];
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) load_fragment<Operand::A, T, kOrderA, kM>(a[i], tile_a, first_row + i * 16, k);
#pragma unroll
      for (int j = 0; j < kTilesN / 2; ++j) {
        load_fragment<Operand::B, T, kOrderB, kN>(b[j], tile_b, first_column + j * 16, k);
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
};

// Lanes 4 across the columns, 8 down the rows; their bits are mixed, lowest first column, row, column, row, row, so that
// of each operand two neighbours read the same chunk: half a warp then is one access.
template <KOrder kOrderA, KOrder kOrderB, int kM, int kN>
struct ScalarWarp {
  static constexpr int kRows = kM / kWarpsM / 8, kColumns = kWarpColumns / 4;
  using TileA = OperandTile<float, kOrderA, kM, Reader::MultiplyAdd>;
  using TileB = OperandTile<float, kOrderB, kN, Reader::MultiplyAdd>;
  static constexpr bool kRegistersToSpare = false;  // of 128: 64 sums, 32 numbers of B and some of A
  static constexpr bool kRowsByChunk = kOrderA == KOrder::KStrided, kColumnsByChunk = kOrderB == KOrder::KStrided;
  static_assert(!TileA::chunk_reads_meet(1) && !TileB::chunk_reads_meet(2), "bank conflicts");

  float sum[kRows][kColumns];

  __device__ __forceinline__ float& at(int i, int j) { return sum[i][j]; }
  __device__ __forceinline__ static int lane_row() { return (threadIdx.x >> 1 & 1) | (threadIdx.x >> 2 & 6); }
  __device__ __forceinline__ static int lane_column() { return (threadIdx.x & 1) | (threadIdx.x >> 1 & 2); }
  __device__ __forceinline__ static constexpr int row_bit(int n) { return n == 0 ? 2 : 4 << n; }
  __device__ __forceinline__ static int row(int i) {
    return kRowsByChunk ? i / 4 * 32 + lane_row() * 4 + i % 4 : i * 8 + lane_row();
  }
  __device__ __forceinline__ static int column(int j) {
    return kColumnsByChunk ? j / 4 * 16 + lane_column() * 4 + j % 4 : j / 2 * 8 + lane_column() * 2 + j % 2;
  }

  __device__ __forceinline__ void multiply_add(const unsigned char* tile_a, const unsigned char* tile_b, int first_row,
                                               int first_column) {
#pragma unroll 1
    for (int k = 0; k < kStep<float> / 4; ++k) {  // of 4
      float b[4][kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {  // a chunk each
        const float4 chunk = load_chunk<TileB>(tile_b, first_column + column(kColumnsByChunk ? j / 4 * 4 : j), k, j % 4);
        const float four[] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) b[kColumnsByChunk ? j % 4 : e][kColumnsByChunk ? j / 4 * 4 + e : j] = four[e];
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float4 chunk = load_chunk<TileA>(tile_a, first_row + row(kRowsByChunk ? i / 4 * 4 : i), k, i % 4);
        const float four[] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            float& to = sum[kRowsByChunk ? i / 4 * 4 + e : i][j];
            to = fmaf(four[e], b[kRowsByChunk ? i % 4 : e][j], to);
          }
        }
      }
    }
  }

 private:
  // KContiguous: numbers 4 k ... 4 k + 3 of row or column `extent`. KStrided: of number 4 k + e those of 4 from there.
  template <class Tile>
  __device__ __forceinline__ static float4 load_chunk(const unsigned char* tile, int extent, int k, int e) {
    const int offset = Tile::kContiguous ? Tile::offset(extent, k) : Tile::offset(k * 4 + e, extent / 4);
    return *reinterpret_cast<const float4*>(tile + offset);
  }
};

template <class Element>
struct TensorCores {
  using T = Element;
  template <KOrder kOrderA, KOrder kOrderB, int kM, int kN>
  using Warp = MatrixWarp<T, kOrderA, kOrderB, kM, kN>;
};

struct MultiplyAdd {
  using T = float;
  template <KOrder kOrderA, KOrder kOrderB, int kM, int kN>
  using Warp = ScalarWarp<kOrderA, kOrderB, kM, kN>;
};

// Calls body(Math{}) for what multiplies elements of `dtype`.
template <class Body>
cudaError_t with_math(DType dtype, bool tf32, Body&& body) {
  if (dtype == DType::Float32 && !tf32) return body(MultiplyAdd{});
  return with_dtype(dtype, [&](auto element) { return body(TensorCores<decltype(element)>{}); });
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

template <class Math, KOrder kOrderA, KOrder kOrderB, int kBlockM, int kBlockN>
struct BlockGemm {
  using T = typename Math::T;
  using Warp = typename Math::template Warp<kOrderA, kOrderB, kBlockM, kBlockN>;
  static constexpr int kM = kBlockM, kN = kBlockN;
  static constexpr int kWarpsN = kN / kWarpColumns, kWarpRows = kM / kWarpsM;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
  static constexpr int kBlocksAnSm = 512 / kThreads;  // as far as registers go: 128 a thread
  using TileA = typename Warp::TileA;
  using TileB = typename Warp::TileB;
  static constexpr int kStageBytes = TileA::kBytes + TileB::kBytes, kSharedBytes = kStages * kStageBytes;
  static constexpr int kCopiesA = TileA::kChunks / kThreads, kCopiesB = TileB::kChunks / kThreads;
  static_assert(TileA::kChunks % kThreads == 0 && TileB::kChunks % kThreads == 0, "every thread copies equally much");
  static_assert(!TileA::copies_meet() && !TileB::copies_meet(), "bank conflicts");
  static_assert(kM * kN * 4 <= kSharedBytes, "the sums fit into the ring");

  unsigned char* shared;
  Warp warp;

  __device__ __forceinline__ static int warp_row() { return threadIdx.x / kWarp / kWarpsN * kWarpRows; }
  __device__ __forceinline__ static int warp_column() { return threadIdx.x / kWarp % kWarpsN * kWarpColumns; }

  // Adds up `steps` steps; fill(a, b) issues the copies of the next step to the tiles at a and b, and is called `steps` times.
  template <class Fill>
  __device__ __forceinline__ void run(int steps, Fill&& fill) {
#pragma unroll
    for (int i = 0; i < Warp::kRows; ++i) {
#pragma unroll
      for (int j = 0; j < Warp::kColumns; ++j) warp.at(i, j) = 0.f;
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
      const unsigned char* stage = shared + step % kStages * kStageBytes;
      warp.multiply_add(stage, stage + TileA::kBytes, warp_row(), warp_column());
    }
    cp_async_wait_group<0>();
    __syncthreads();  // the ring is free
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
#pragma unroll
    for (int i = 0; i < Warp::kRows; ++i) {
#pragma unroll
      for (int j = 0; j < Warp::kColumns; j += 2) {
        const int row = warp_row() + Warp::row(i), column = warp_column() + Warp::column(j);
        *reinterpret_cast<float2*>(sums_at(row, column) + column % 4) = make_float2(warp.at(i, j), warp.at(i, j + 1));
      }
    }
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
