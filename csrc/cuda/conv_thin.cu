// conv_thin: convolutions and transposed convolutions between a coarse image and a fine one of 1 to 4 channels (the RGB
// ends of every GAN), for sm_80; conv_gemm.h has the formulas.
//
// Bytes      Bound by memory. The first layer of DCGAN-64's discriminator, 3 -> 64 channels at 64x64, batch 128, bf16:
//            fine 128 * 64 * 64 * 3 * 2 = 3.1 MB, coarse 128 * 32 * 32 * 64 * 2 = 16.8 MB, together 4.6 us at 4.3 TB/s;
//            its 0.8 GFLOP take 1 us. So the coarse image moves once, 16 bytes a lane and access, and what happens in
//            between has 7.9 cycles of a multiprocessor a coarse pixel (4.6 us * 1.7 GHz * 132 / 131072): below,
//            "passes" are accesses of 128 bytes to shared memory, one a cycle.
// Both       directions share the patch matrix P[coarse pixel, (a, b, c)] of kernel_h * kernel_w * fine_channels
//            columns.
// Down       coarse = P W^T, conv_thin_tile.cuh. The product is turned over, rows are channels and columns are pixels,
//            so that the sums of a lane are 16 bytes of one pixel and go to memory as they are. A block has 128 pixels
//            and 128 bytes of channels, a warp 32 pixels. A: the weight by ldmatrix, once for 32 pixels. B: P, from the
//            fine tile, of which blocks read 1.3 times what there is, through L2 (8 x 16 pixels, kernel 4, stride 2).
//            Passes a pixel, 48 columns and 64 channels of 16 bits: P 1.5, W 1.5.
// Up         Q = coarse W, rows are P's columns, then fine = col2im(Q): every fine pixel gathers its at most
//            ceil(kernel / stride)^2 terms. A block has a tile of the fine image and multiplies the coarse pixels that
//            reach it; those at its edges it shares with its neighbours, through L2: 1.19 times the image for tiles of
//            16 x 64 of 64 x 64. B: a lane loads 16 bytes of a pixel, which are its part of two instructions; the order
//            of K is free, and A, the weight, lies in shared memory as registers in that order. Passes a pixel, 48
//            columns and 64 channels of 16 bits: W 1.5, Q 1.5 stored and 1.5 loaded, the latter twice that for
//            conflicts of two lanes with a pitch of 52.
// Weight     in either layout, once a block, from L2.
// Ragged     coarse channels that are no multiple of 16 bytes, or an image off its alignment: Down element by element,
//            Up not covered. Fine rows that are no multiple of 16 bytes: element by element, which hardly costs.
// Epilogue   bias; or that, normalisation and activation, from the float sums, rounded once. No statistics.
// Numerics   products exact, sums in float: over channels (Up) or columns (Down) by the tensor cores, over Up's taps in
//            the order of (a, b). tf32 operands are rounded to nearest. No atomics: the same input gives the same bits.
#include "conv_thin.h"

#include <algorithm>

#include "conv_epilogue.cuh"
#include "conv_thin_tile.cuh"

namespace fastgan::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------- Down

constexpr int kDownThreads = 128, kDownBlocksAnSm = 4;
constexpr int kPixelTiles = kTilePixels / (kDownThreads / kWarp) / 8;  // instructions side by side of a warp

struct ThinDownArgs {
  ConvGemmParams p;
  PatchTiles tiles;
  int columns, steps;     // of P; instructions deep
  int channel_blocks;
  int weight_chunks;      // of a row in shared memory, the columns padded to whole steps
  bool weight_by_chunk, out_by_vector;
  Divider by_weight_chunks;

  // Rows of an odd number of chunks: ldmatrix reads 8 of them, and stores a column, without bank conflicts.
  __host__ __device__ int weight_pitch() const { return (weight_chunks | 1) * kChunkBytes; }
};

// Grid (tiles * blocks of channels), channels first: their blocks read the same pixels from L2.
template <class T>
__global__ void __launch_bounds__(kDownThreads, kDownBlocksAnSm) thin_down_kernel(const ThinDownArgs args) {
  constexpr int V = kVector<T>, kRowTiles = V / 2;
  FASTGAN_DYNAMIC_SHARED(shared);  // weights, fine tile
  FASTGAN_SHARED(int, offsets, kThinColumns);
  unsigned char* fine = shared + 8 * V * args.weight_pitch();

  const PatchTiles& tiles = args.tiles;
  const PatchTile tile = patch_tile(tiles, blockIdx.x / args.channel_blocks);
  const int channel0 = blockIdx.x % args.channel_blocks * kBlockChannels<T>;
  const int coarse_channels = static_cast<int>(tiles.shape.coarse_channels);
  for (int k = threadIdx.x; k < args.steps * kInstructionK<T>; k += kDownThreads) {
    offsets[k] = column_offset<T>(tiles, k);
  }
  // Row 8 v + g of the weights in shared memory is channel V g + v: ldmatrix reads the 8 lanes' channels in
  // neighbouring rows.
  for (int q = threadIdx.x; q < 8 * V * args.weight_chunks; q += kDownThreads) {
    const int row = args.by_weight_chunks.quotient(q), chunk = q - row * args.weight_chunks;
    const int channel = channel0 + row % 8 * V + row / 8;
    const int valid = channel < coarse_channels ? args.columns - chunk * V : 0;
    const int offset = valid > 0 ? channel * args.columns + chunk * V : 0;
    fill_chunk(shared + row * args.weight_pitch() + chunk * kChunkBytes, static_cast<const T*>(args.p.weight) + offset,
               valid, args.weight_by_chunk);
  }
  fill_fine<T, kDownThreads>(tiles, tile, static_cast<const T*>(args.p.x), fine);
  cp_async_commit_group();
  cp_async_wait_group<0>();
  __syncthreads();

  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, pixel0 = threadIdx.x / kWarp * kPixelTiles * 8;
  const T* pixel[kPixelTiles];
#pragma unroll
  for (int j = 0; j < kPixelTiles; ++j) {
    pixel[j] = reinterpret_cast<const T*>(fine) + skew<T>(tile) + pixel_offset<T>(tiles, pixel0 + j * 8 + g);
  }
  float sum[kRowTiles][kPixelTiles][4] = {};
  for (int step = 0; step < args.steps; ++step) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const int row = (2 * m + lane / 8 % 2) * 8 + lane % 8, chunk = step * 2 + lane / 16;
      ldmatrix_x4(a[m], shared + row * args.weight_pitch() + chunk * kChunkBytes);
#pragma unroll
      for (uint32_t& word : a[m]) word = operand_word<T>(word);
    }
    int offset[2][kWordElements<T>];
#pragma unroll
    for (int w = 0; w < 2; ++w) {
#pragma unroll
      for (int e = 0; e < kWordElements<T>; ++e) {
        offset[w][e] = offsets[step * kInstructionK<T> + (w * 4 + t) * kWordElements<T> + e];
      }
    }
#pragma unroll
    for (int j = 0; j < kPixelTiles; ++j) {
      uint32_t b[2];
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        T elements[kWordElements<T>];
#pragma unroll
        for (int e = 0; e < kWordElements<T>; ++e) {
          elements[e] = offset[w][e] < 0 ? from_float<T>(0.f) : pixel[j][offset[w][e]];
        }
        b[w] = operand_word(elements);
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) multiply(sum[m][j], a[m], b, T{});
    }
  }

  const int channel = channel0 + g * V;
  float bias[V];
  ChannelAffine affine[V];
  load_bias<T>(args.p, coarse_channels, channel, bias);
  load_affine(args.p, coarse_channels, channel, affine);
#pragma unroll
  for (int j = 0; j < kPixelTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int m = pixel0 + j * 8 + t * 2 + e, row = tiles.by_columns.quotient(m), column = m - row * tiles.columns;
      const int y = tile.i + row, x = tile.j + column;
      if (row >= tiles.rows || y >= tiles.shape.coarse_h || x >= tiles.shape.coarse_w) continue;
      float z[V];
#pragma unroll
      for (int v = 0; v < V; ++v) z[v] = sum[v / 2][j][v % 2 * 2 + e];
      add_bias(bias, z);
      finish(args.p, affine, z);
      const int h = static_cast<int>(tiles.shape.coarse_h), w = static_cast<int>(tiles.shape.coarse_w);
      const int64_t offset = (static_cast<int64_t>(tile.n * h + y) * w + x) * coarse_channels + channel;
      store_first(static_cast<T*>(args.p.out) + offset, z, coarse_channels - channel, args.out_by_vector);
    }
  }
}

ThinDownArgs plan_thin_down(const ConvGemmParams& p) {
  const ConvShape& s = p.shape;
  const int element = p.dtype == DType::Float32 ? 4 : 2, vector = kChunkBytes / element;
  const int columns = static_cast<int>(thin_columns(s)), steps = static_cast<int>(ceil_div(columns, vector * 2));
  const int weight_chunks = steps * 2;
  return {p, patch_tiles(s, p.weight_layout, p.dtype, p.x), columns, steps,
          static_cast<int>(ceil_div(s.coarse_channels, vector * 8)), weight_chunks,
          columns % vector == 0 && aligned16(p.weight), s.coarse_channels % vector == 0 && aligned16(p.out),
          Divider(static_cast<uint32_t>(weight_chunks))};
}

template <class T>
cudaError_t run_thin_down(const ConvGemmParams& p, cudaStream_t stream) {
  const ThinDownArgs args = plan_thin_down(p);
  const dim3 grid(static_cast<unsigned>(args.tiles.tiles()) * static_cast<unsigned>(args.channel_blocks));
  const int bytes = kBlockChannels<T> * args.weight_pitch() + args.tiles.fine_bytes();
  return launch_with_shared(thin_down_kernel<T>, grid, dim3(kDownThreads), bytes, stream, args);
}

// ------------------------------------------------------------------------------------------------------------ Up

constexpr int kUpThreads = 320, kUpBlocksAnSm = 2;
constexpr int kUpPixels = kUpThreads;      // coarse pixels of a block: 32 a warp
constexpr int kUpSharedBytes = 96 * 1024;  // of a block: two of them fit an H200's multiprocessor, one of any other's
constexpr int kUpColumnTiles = 3;          // instructions one below the other of a warp, 16 columns of P each
constexpr int kFewTerms = 2, kManyTerms = kThinKernel;  // of a fine pixel, down and across

// Fine pixels come in groups of stride_h x stride_w, one for each coarse pixel but at the edges.
struct ThinUpArgs {
  ConvGemmParams p;
  int columns;                // of P
  int rows, row_groups;       // groups of a tile: down, across
  int tiles_y, tiles_x;       // of a sample
  int column_tiles;           // of 16, padded to whole passes of a warp
  int channel_steps;          // of 64 bytes, two instructions
  int pitch;                  // floats of a row of Q
  int q_bytes;
};

// A tile's fine pixels [y, y_end) x [x, x_end), and the coarse pixels that reach them, `rows` x `columns` from (i, j)
// on.
struct UpTile {
  int n, y, y_end, x, x_end, i, j, rows, columns;
};

struct Span {
  int first, count;
};

// Coarse pixels that reach the fine pixels [begin, end) of one dimension.
__device__ __forceinline__ Span reached_from(int begin, int end, int kernel, int stride, int padding, int size) {
  const int low = begin + padding - kernel + 1, last = (end - 1 + padding) / stride;
  const int first = low > 0 ? (low + stride - 1) / stride : 0, past = last + 1 < size ? last + 1 : size;
  return {first, past > first ? past - first : 0};
}

__device__ __forceinline__ UpTile up_tile(const ThinUpArgs& args, int index) {
  const ConvShape& s = args.p.shape;
  const int line = index / args.tiles_x, n = line / args.tiles_y;
  const int y = (line - n * args.tiles_y) * args.rows * s.stride_h;
  const int x = (index - line * args.tiles_x) * args.row_groups * s.stride_w;
  const int fine_h = static_cast<int>(s.fine_h), fine_w = static_cast<int>(s.fine_w);
  const int y_past = y + args.rows * s.stride_h, x_past = x + args.row_groups * s.stride_w;
  const int y_end = y_past < fine_h ? y_past : fine_h, x_end = x_past < fine_w ? x_past : fine_w;
  const Span down = reached_from(y, y_end, s.kernel_h, s.stride_h, s.padding_h, static_cast<int>(s.coarse_h));
  const Span across = reached_from(x, x_end, s.kernel_w, s.stride_w, s.padding_w, static_cast<int>(s.coarse_w));
  return {n, y, y_end, x, x_end, down.first, across.first, down.count, across.count};
}

// The weights go to shared memory as the registers of A, 16 bytes a lane and instruction: instruction k of 16 columns m
// at ((k * column_tiles + m) * 32 + lane) * 16. Rows g and g + 8 are columns 16 m + 2 g and the next one, in the order
// of (a, b, c); K is what lanes load of a pixel: register w of instruction 2 i + s are the elements of word 2 s + w of
// chunk 4 i + t.
template <class T>
__device__ __forceinline__ void fill_weights(const ThinUpArgs& args, unsigned char* shared) {
  const ConvShape& s = args.p.shape;
  const int taps = s.kernel_h * s.kernel_w, channels = static_cast<int>(s.fine_channels);
  const int coarse_channels = static_cast<int>(s.coarse_channels);
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  for (int i = threadIdx.x / kWarp; i < args.channel_steps * 2 * args.column_tiles; i += kUpThreads / kWarp) {
    const int k = i / args.column_tiles, m = i - k * args.column_tiles;
    uint32_t words[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int column = m * 16 + g * 2 + r % 2, word = k % 2 * 2 + r / 2;
      const bool channels_last = args.p.weight_layout == Layout::ChannelsLast;
      const int at = channels_last ? column : column % channels * taps + column / channels;
      T elements[kWordElements<T>];
#pragma unroll
      for (int e = 0; e < kWordElements<T>; ++e) {
        const int channel = (k / 2 * 4 + t) * kVector<T> + word * kWordElements<T> + e;
        const bool inside = column < args.columns && channel < coarse_channels;
        elements[e] = inside ? static_cast<const T*>(args.p.weight)[channel * args.columns + at] : from_float<T>(0.f);
      }
      words[r] = operand_word(elements);
    }
    auto* to = reinterpret_cast<uint4*>(shared + (i * kWarp + lane) * kChunkBytes);
    *to = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// What a lane loads of the tile's coarse pixels, 32 a warp: 16 bytes of pixels first + g, + 8, + 16 and + 24 a step.
template <class T>
struct UpPixels {
  const T* coarse;
  int offset[4];  // negative past the tile
  int channels;   // left behind the lane's first

  __device__ __forceinline__ UpPixels(const ThinUpArgs& args, const UpTile& tile, int first) {
    const ConvShape& s = args.p.shape;
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4, coarse_channels = static_cast<int>(s.coarse_channels);
    coarse = static_cast<const T*>(args.p.x) + t * kVector<T>;
    channels = coarse_channels - t * kVector<T>;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int pixel = first + j * 8 + g, row = pixel / tile.columns, column = pixel - row * tile.columns;
      const int line = tile.n * static_cast<int>(s.coarse_h) + tile.i + row;
      const bool there = pixel < tile.rows * tile.columns;
      offset[j] = there ? (line * static_cast<int>(s.coarse_w) + tile.j + column) * coarse_channels : -1;
    }
  }

  __device__ __forceinline__ void load(Vector<T, kVector<T>> (&x)[4], int step) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool there = offset[j] >= 0 && step * kStep<T> < channels;
      x[j] = there ? load_vector<kVector<T>>(coarse + offset[j] + step * kStep<T>) : Vector<T, kVector<T>>{};
    }
  }
};

// Q of the warp's pixels, of which x is the first step. Rows of the product are columns of Q, its columns are pixels.
template <class T>
__device__ __forceinline__ void multiply_pixels(const ThinUpArgs& args, const UpPixels<T>& pixels,
                                                Vector<T, kVector<T>> (&x)[4], const unsigned char* weights, float* q) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  for (int tile0 = 0; tile0 < args.column_tiles; tile0 += kUpColumnTiles) {
    float sum[kUpColumnTiles][4][4] = {};
    const unsigned char* a_at = weights + (tile0 * kWarp + lane) * kChunkBytes;
    for (int step = 0; step < args.channel_steps; ++step) {
      const bool again = step + 1 == args.channel_steps && tile0 + kUpColumnTiles < args.column_tiles;
      Vector<T, kVector<T>> next[4];
      pixels.load(next, again ? 0 : step + 1);  // nothing past the last step
#pragma unroll
      for (int k = 0; k < 2; ++k, a_at += args.column_tiles * kWarp * kChunkBytes) {
#pragma unroll
        for (int m = 0; m < kUpColumnTiles; ++m) {
          const auto quad = *reinterpret_cast<const uint4*>(a_at + m * kWarp * kChunkBytes);
          const uint32_t a[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const uint32_t b[2] = {operand_word<T>(x[j].words[2 * k]), operand_word<T>(x[j].words[2 * k + 1])};
            multiply(sum[m][j], a, b, T{});
          }
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = next[j];
    }
#pragma unroll
    for (int m = 0; m < kUpColumnTiles; ++m) {
      if ((tile0 + m) * 16 >= args.columns) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float* at = q + (j * 8 + t * 2 + e) * args.pitch + (tile0 + m) * 16 + g * 2;
          *reinterpret_cast<float2*>(at) = make_float2(sum[m][j][e], sum[m][j][e + 2]);
        }
      }
    }
  }
}

// fine = col2im(Q). A thread has one element of a fine row and every stride_h-th row of the tile: of these, taps and
// columns are the same, and coarse pixels move on by one row. kTerms: down and across, at most.
template <class T, int kTerms>
__device__ __forceinline__ void gather_terms(const ThinUpArgs& args, const UpTile tile, const float* q) {
  const ConvShape& s = args.p.shape;
  const int channels = static_cast<int>(s.fine_channels), row_elements = (tile.x_end - tile.x) * channels;
  const int row_pitch = tile.columns * args.pitch;  // of coarse rows in q
  const int next_down = s.stride_h * s.kernel_w * channels - row_pitch;
  for (int item = threadIdx.x; item < row_elements * s.stride_h; item += kUpThreads) {
    const int first_row = item / row_elements, element = item - first_row * row_elements;
    const int column = element / channels, c = element - column * channels;
    const int x = tile.x + column + s.padding_w, j = x / s.stride_w, b = x - j * s.stride_w;
    const int y = tile.y + first_row + s.padding_h, i = y / s.stride_h, a = y - i * s.stride_h;
    const int taps_down = (s.kernel_h - a + s.stride_h - 1) / s.stride_h;
    const int taps_across = (s.kernel_w - b + s.stride_w - 1) / s.stride_w;
    float bias[1];
    ChannelAffine affine[1];
    load_bias<T>(args.p, channels, c, bias);
    load_affine(args.p, channels, c, affine);
    const int line = tile.n * static_cast<int>(s.fine_h) + tile.y + first_row;
    const int out_pitch = static_cast<int>(s.fine_w) * channels;
    T* out = static_cast<T*>(args.p.out) + static_cast<int64_t>(line) * out_pitch + tile.x * channels + element;
    const int from_row = i - tile.i, from_column = j - tile.j;
    // The first term; the next across is of the pixel before, the next down of the row before.
    const float* terms = q + from_row * row_pitch + from_column * args.pitch + (a * s.kernel_w + b) * channels + c;
    const int next_across = s.stride_w * channels - args.pitch;
    bool across[kTerms];
#pragma unroll
    for (int l = 0; l < kTerms; ++l) {
      across[l] = l < taps_across && static_cast<unsigned>(from_column - l) < static_cast<unsigned>(tile.columns);
    }
    const int rows = (tile.y_end - tile.y - first_row + s.stride_h - 1) / s.stride_h;
    for (int row = 0; row < rows; ++row, terms += row_pitch, out += s.stride_h * out_pitch) {
      float z[1] = {};
#pragma unroll
      for (int k = 0; k < kTerms; ++k) {
        if (kTerms > kFewTerms && k >= taps_down) break;
        const bool down = k < taps_down && static_cast<unsigned>(from_row + row - k) < static_cast<unsigned>(tile.rows);
#pragma unroll
        for (int l = 0; l < kTerms; ++l) {
          if (kTerms > kFewTerms && l >= taps_across) break;
          z[0] += down && across[l] ? terms[k * next_down + l * next_across] : 0.f;
        }
      }
      add_bias(bias, z);
      finish(args.p, affine, z);
      store(out, z);
    }
  }
}

// Grid (tiles).
template <class T, int kTerms>
__global__ void __launch_bounds__(kUpThreads, kUpBlocksAnSm) thin_up_kernel(const ThinUpArgs args) {
  FASTGAN_DYNAMIC_SHARED(shared);  // Q, weights
  auto* q = reinterpret_cast<float*>(shared);
  unsigned char* weights = shared + args.q_bytes;
  FASTGAN_SHARED(UpTile, tile, 1);  // where it takes no registers
  if (threadIdx.x == 0) tile[0] = up_tile(args, blockIdx.x);
  __syncthreads();
  const int pixel0 = threadIdx.x / kWarp * 32;
  const bool busy = pixel0 < tile[0].rows * tile[0].columns;
  const UpPixels<T> pixels(args, tile[0], pixel0);
  Vector<T, kVector<T>> x[4];
  pixels.load(x, 0);  // on their way while the weights are filled in
  fill_weights<T>(args, weights);
  __syncthreads();
  if (busy) multiply_pixels(args, pixels, x, weights, q + pixel0 * args.pitch);
  __syncthreads();
  gather_terms<T, kTerms>(args, tile[0], q);
}

struct ThinUpPlan {
  unsigned blocks;
  int weight_bytes;
  ThinUpArgs args;
};

// The tile that takes the least time where a block takes it for its coarse pixels and multiprocessors have two blocks
// each.
ThinUpPlan plan_thin_up(const ConvGemmParams& p) {
  const ConvShape& s = p.shape;
  const int64_t element = p.dtype == DType::Float32 ? 4 : 2;
  const int columns = static_cast<int>(thin_columns(s));
  const int column_tiles = static_cast<int>(ceil_div(columns, kUpColumnTiles * 16)) * kUpColumnTiles;
  const int channel_steps = static_cast<int>(ceil_div(s.coarse_channels * element, kStepBytes));
  const int weight_bytes = channel_steps * 2 * column_tiles * kWarp * kChunkBytes;
  // 4 or 12 modulo 16: of half a warp's stores of two floats, 8 columns of every second of 8 pixels, none meet in a
  // bank.
  const int pitch = static_cast<int>(ceil_div(columns, 16)) * 16 + 4;
  const int pixel_bytes = pitch * static_cast<int>(sizeof(float));
  const int64_t groups_h = ceil_div(s.fine_h, s.stride_h), groups_w = ceil_div(s.fine_w, s.stride_w);
  const int64_t halo_h = ceil_div(s.kernel_h - 1, s.stride_h), halo_w = ceil_div(s.kernel_w - 1, s.stride_w);
  const int64_t room = (kUpSharedBytes - weight_bytes) / pixel_bytes / 32 * 32;
  const int64_t most = room < kUpPixels ? room : kUpPixels;

  ThinUpPlan best{0, weight_bytes, {}};
  int64_t best_time = INT64_MAX;
  for (int64_t across = groups_w;; across = ceil_div(across, 2)) {
    for (int64_t down = groups_h;; down = ceil_div(down, 2)) {
      const int64_t pixels = std::min(s.coarse_h, down + halo_h) * std::min(s.coarse_w, across + halo_w);
      const int64_t tiles_y = ceil_div(groups_h, down), tiles_x = ceil_div(groups_w, across);
      const int64_t blocks = s.samples * tiles_y * tiles_x;
      const int64_t time = ceil_div(blocks, kUpBlocksAnSm * FASTGAN_CONV_BLOCKS) * pixels;
      if (pixels <= most && time < best_time) {
        best_time = time;
        best.blocks = static_cast<unsigned>(blocks);
        best.args = {p, columns, static_cast<int>(down), static_cast<int>(across), static_cast<int>(tiles_y),
                     static_cast<int>(tiles_x), column_tiles, channel_steps, pitch,
                     static_cast<int>(ceil_div(pixels, 32)) * 32 * pixel_bytes};
      }
      if (down == 1) break;
    }
    if (across == 1) break;
  }
  return best;
}

template <class T>
cudaError_t run_thin_up(const ConvGemmParams& p, cudaStream_t stream) {
  const ThinUpPlan plan = plan_thin_up(p);
  const bool few = p.shape.kernel_h <= kFewTerms * p.shape.stride_h && p.shape.kernel_w <= kFewTerms * p.shape.stride_w;
  const auto kernel = few ? thin_up_kernel<T, kFewTerms> : thin_up_kernel<T, kManyTerms>;
  const int bytes = plan.args.q_bytes + plan.weight_bytes;
  return launch_with_shared(kernel, dim3(plan.blocks), dim3(kUpThreads), bytes, stream, plan.args);
}

}  // namespace

bool conv_thin_covers(const ConvGemmParams& p) {
  if (!thin_covers(p.shape, p.dtype, p.tf32)) return false;
  if (p.epilogue != ConvEpilogue::Store && p.epilogue != ConvEpilogue::Normalise) return false;
  if (p.direction == ConvDirection::Down) return true;
  const int64_t pixel_bytes = p.shape.coarse_channels * (p.dtype == DType::Float32 ? 4 : 2);
  return pixel_bytes % kChunkBytes == 0 && aligned16(p.x) && plan_thin_up(p).blocks > 0;
}

int64_t conv_thin_workspace(const ConvGemmParams&) { return 0; }

cudaError_t conv_thin(const ConvGemmParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return p.direction == ConvDirection::Down ? run_thin_down<T>(p, stream) : run_thin_up<T>(p, stream);
  });
}

}  // namespace fastgan::cuda
