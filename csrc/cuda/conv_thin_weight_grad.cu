// conv_thin_weight_grad: dweight[C, c, a, b] = sum_{n, i, j} coarse[n, i, j, C] * fine[n, I, J, c] where the fine image
// has 1 to 4 channels, for sm_80; conv_gemm.h has (I, J), conv_thin.cu says what bounds it.
//
// Tiles      dW = coarse^T P, conv_thin_tile.cuh. A block has 128 bytes of channels and 48 columns and walks over tiles
//            of 128 pixels, coarse and fine, through a ring of shared memory filled by cp.async; every warp takes its
//            share of the pixels and has all of the block's sums. More columns or channels read the images again, from
//            L2.
// A          a lane's 16 bytes of a pixel, put together with the same of the next pixel: its rows of all instructions.
// Passes     of shared memory a coarse pixel, 48 columns and 64 channels of 16 bits: 1 stored by copies, A 1, P 1.5.
// Split      over tiles, one block a multiprocessor: fewer would not fill the device, more would write more sums. Warps
//            are added up by halves; the blocks' float sums go to the workspace, (splits, C, columns) in the weight's
//            own order, and are added in order by a second launch. 132 of 64 x 48: 1.6 MB beside 20 MB of images.
// Ragged     as Down in conv_thin.cu, each image for itself.
// Numerics   products exact, sums in float, in an order fixed by the shape; tf32 operands are rounded to nearest. No
//            atomics: the same input gives the same bits. Past a tile's end coarse pixels are zero and meet fine pixels
//            of the tile: of an infinite one other columns of dW may become NaN.
#include "conv_thin.h"
#include "conv_thin_tile.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kThinGradThreads = 256, kThinGradWarps = kThinGradThreads / kWarp;
constexpr int kThinGradStages = 3;
constexpr int kThinGradColumnTiles = 6;  // instructions side by side, 8 columns each
constexpr int kCoarseBytes = kTilePixels * 128;

struct ThinGradArgs {
  ConvWeightGradParams p;
  PatchTiles tiles;
  int columns, column_blocks, channel_blocks, splits;
  bool coarse_by_chunk;
  float* partial;  // (splits, coarse_channels, columns)
};

// Grid (blocks of channels * blocks of columns, splits).
template <class T>
__global__ void __launch_bounds__(kThinGradThreads, 1) thin_weight_grad_kernel(const ThinGradArgs args) {
  constexpr int V = kVector<T>, kRowTiles = V / 2, kSums = kRowTiles * kThinGradColumnTiles * 4;
  constexpr int kSteps = kTilePixels / kInstructionK<T>;
  static_assert(kThinGradWarps / 2 * kSums * kWarp * 4 <= kThinGradStages * kCoarseBytes,
                "half the warps' sums fit the ring");
  FASTGAN_DYNAMIC_SHARED(ring);
  FASTGAN_SHARED(int, pixels, kTilePixels);

  const PatchTiles& tiles = args.tiles;
  const ConvShape& s = tiles.shape;
  const int coarse_channels = static_cast<int>(s.coarse_channels);
  const int coarse_h = static_cast<int>(s.coarse_h), coarse_w = static_cast<int>(s.coarse_w);
  const int channel0 = static_cast<int>(blockIdx.x) % args.channel_blocks * kBlockChannels<T>;
  const int column0 = static_cast<int>(blockIdx.x) / args.channel_blocks * (kThinGradColumnTiles * 8);
  const int stage_bytes = kCoarseBytes + tiles.fine_bytes();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;

  for (int m = threadIdx.x; m < kTilePixels; m += kThinGradThreads) pixels[m] = pixel_offset<T>(tiles, m);
  int column[kThinGradColumnTiles];  // the lane's in P; a column past the last repeats the first, its sums go nowhere
#pragma unroll
  for (int j = 0; j < kThinGradColumnTiles; ++j) {
    const int offset = column_offset<T>(tiles, column0 + j * 8 + g);
    column[j] = offset < 0 ? 0 : offset;
  }

  const StepRange range(tiles.tiles(), args.splits, blockIdx.y);
  const auto fill = [&](int index) {
    if (index < range.count) {
      const PatchTile tile = patch_tile(tiles, range.first + index);
      unsigned char* stage = ring + index % kThinGradStages * stage_bytes;
      for (int q = threadIdx.x; q < kTilePixels * 8; q += kThinGradThreads) {
        const int m = q / 8, row = tiles.by_columns.quotient(m), i = tile.i + row, j = tile.j + m - row * tiles.columns;
        const int channel = channel0 + q % 8 * V;
        const int valid = row < tiles.rows && i < coarse_h && j < coarse_w ? coarse_channels - channel : 0;
        const int offset = valid > 0 ? ((tile.n * coarse_h + i) * coarse_w + j) * coarse_channels + channel : 0;
        fill_chunk(stage + q * kChunkBytes, static_cast<const T*>(args.p.coarse) + offset, valid, args.coarse_by_chunk);
      }
      fill_fine<T, kThinGradThreads>(tiles, tile, static_cast<const T*>(args.p.fine), stage + kCoarseBytes);
    }
    cp_async_commit_group();
  };

  float sum[kRowTiles][kThinGradColumnTiles][4] = {};
  for (int i = 0; i < kThinGradStages - 1; ++i) fill(i);
  for (int i = 0; i < range.count; ++i) {
    cp_async_wait_group<kThinGradStages - 2>();
    __syncthreads();  // this tile is here for all threads, and all are done with the one before
    fill(i + kThinGradStages - 1);
    const unsigned char* coarse = ring + i % kThinGradStages * stage_bytes;
    const T* fine = reinterpret_cast<const T*>(coarse + kCoarseBytes) + skew<T>(patch_tile(tiles, range.first + i));
    for (int step = warp; step < kSteps; step += kThinGradWarps) {
      T x[2][kWordElements<T>][V];
      const T* pixel[2][kWordElements<T>];
#pragma unroll
      for (int w = 0; w < 2; ++w) {
#pragma unroll
        for (int e = 0; e < kWordElements<T>; ++e) {
          const int m = step * kInstructionK<T> + (w * 4 + t) * kWordElements<T> + e;
          const auto chunk = load_vector<V>(reinterpret_cast<const T*>(coarse + (m * 8 + g) * kChunkBytes));
          memcpy(static_cast<void*>(x[w][e]), &chunk, sizeof chunk);
          pixel[w][e] = fine + pixels[m];
        }
      }
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int v = 0; v < V; ++v) {
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          T elements[kWordElements<T>];
#pragma unroll
          for (int e = 0; e < kWordElements<T>; ++e) elements[e] = x[w][e][v];
          a[v / 2][v % 2 + w * 2] = operand_word(elements);
        }
      }
#pragma unroll
      for (int j = 0; j < kThinGradColumnTiles; ++j) {
        uint32_t b[2];
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          T elements[kWordElements<T>];
#pragma unroll
          for (int e = 0; e < kWordElements<T>; ++e) elements[e] = pixel[w][e][column[j]];
          b[w] = operand_word(elements);
        }
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) multiply(sum[m][j], a[m], b, T{});
      }
    }
  }
  cp_async_wait_group<0>();

  const auto for_each_sum = [&](auto&& body) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) body(i, sum[i / (kThinGradColumnTiles * 4)][i / 4 % kThinGradColumnTiles][i % 4]);
  };
  for (int half = kThinGradWarps / 2; half > 0; half /= 2) {
    float* held = reinterpret_cast<float*>(ring) + warp % half * kSums * kWarp + lane;
    __syncthreads();  // the ring, or what was held in it, is free
    if (warp >= half && warp < half * 2) for_each_sum([&](int i, float value) { held[i * kWarp] = value; });
    __syncthreads();
    if (warp < half) for_each_sum([&](int i, float& value) { value += held[i * kWarp]; });
  }
  if (warp > 0) return;
  float* partial = args.partial + static_cast<int64_t>(blockIdx.y) * coarse_channels * args.columns;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int channel = channel0 + g * V + v;
    if (channel >= coarse_channels) break;
#pragma unroll
    for (int j = 0; j < kThinGradColumnTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int k = column0 + j * 8 + t * 2 + e;
        if (k < args.columns) partial[channel * args.columns + k] = sum[v / 2][j][v % 2 * 2 + e];
      }
    }
  }
}

// Adds `parts` arrays of `elements` floats up: of 32 elements a block, row r of its threads takes parts r, r + 8, ...,
// then the rows are added in order.
template <class T>
__global__ void __launch_bounds__(kThinGradThreads) sum_parts(const float* partial, int parts, int elements, T* out) {
  constexpr int kRows = kThinGradThreads / kWarp;
  FASTGAN_SHARED(float, of_row, kThinGradThreads);
  const int lane = threadIdx.x % kWarp, i = blockIdx.x * kWarp + lane;
  float sum = 0.f;
  if (i < elements) {
#pragma unroll 4
    for (int part = threadIdx.x / kWarp; part < parts; part += kRows) {
      sum += partial[static_cast<int64_t>(part) * elements + i];
    }
  }
  of_row[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kWarp || i >= elements) return;
  for (int row = 1; row < kRows; ++row) sum += of_row[row * kWarp + lane];
  out[i] = from_float<T>(sum);
}

ThinGradArgs plan_thin_weight_grad(const ConvWeightGradParams& p) {
  const ConvShape& s = p.shape;
  const int element = p.dtype == DType::Float32 ? 4 : 2, vector = kChunkBytes / element;
  const int columns = static_cast<int>(thin_columns(s));
  const int column_blocks = static_cast<int>(ceil_div(columns, kThinGradColumnTiles * 8));
  const int channel_blocks = static_cast<int>(ceil_div(s.coarse_channels, vector * 8));
  ThinGradArgs args{p, patch_tiles(s, p.weight_layout, p.dtype, p.fine), columns, column_blocks, channel_blocks, 1,
                    s.coarse_channels % vector == 0 && aligned16(p.coarse), static_cast<float*>(p.workspace)};
  const int wanted = static_cast<int>(ceil_div(FASTGAN_CONV_BLOCKS, int64_t{column_blocks} * channel_blocks));
  args.splits = wanted < args.tiles.tiles() ? wanted : args.tiles.tiles();
  return args;
}

template <class T>
cudaError_t run_thin_weight_grad(const ConvWeightGradParams& p, cudaStream_t stream) {
  const ThinGradArgs args = plan_thin_weight_grad(p);
  const dim3 grid(static_cast<unsigned>(args.channel_blocks * args.column_blocks), static_cast<unsigned>(args.splits));
  const int bytes = kThinGradStages * (kCoarseBytes + args.tiles.fine_bytes());
  FASTGAN_RETURN_IF_ERROR(
      launch_with_shared(thin_weight_grad_kernel<T>, grid, dim3(kThinGradThreads), bytes, stream, args));
  const int elements = static_cast<int>(p.shape.coarse_channels) * args.columns;
  return launch(sum_parts<T>, dim3(static_cast<unsigned>(ceil_div(elements, kWarp))), dim3(kThinGradThreads), stream,
                args.partial, args.splits, elements, static_cast<T*>(p.grad_weight));
}

}  // namespace

bool conv_thin_weight_grad_covers(const ConvWeightGradParams& p) { return thin_covers(p.shape, p.dtype, p.tf32); }

int64_t conv_thin_weight_grad_workspace(const ConvWeightGradParams& p) {
  const ThinGradArgs args = plan_thin_weight_grad(p);
  return int64_t{args.splits} * p.shape.coarse_channels * args.columns * static_cast<int64_t>(sizeof(float));
}

cudaError_t conv_thin_weight_grad(const ConvWeightGradParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) { return run_thin_weight_grad<decltype(element)>(p, stream); });
}

}  // namespace fastgan::cuda
