// The patch matrix of a thin image, for Down and the weight gradient: a tile of coarse pixels, the part of the fine
// image under it in shared memory, and operands of mma.sync built from there.
//
// P[coarse pixel (i, j), column (a, b, c)] = fine[stride_h * i - padding_h + a, stride_w * j - padding_w + b, c]
//
// Columns are counted in the weight's own memory order, so that weight and gradient are (coarse_channels, columns)
// matrices in either layout; offsets of the columns, once a block, hold the difference.
//
// A fine row lies in shared memory as in global memory, from a chunk of 16 bytes on that holds the first element of the
// tile's patches; pixels outside the image are zeros. P itself is nowhere: a lane loads its elements one by one, a
// pixel's at pixel + offset[column]. Neighbouring pixels share half of their columns, which are fetched from memory
// once.
//
// Channels of the coarse image come in blocks of 128 bytes, 16 for each of 8 groups of lanes: row g of the
// instruction's 16 is channel V g + 2 m, row g + 8 the next one, for its m-th instruction of V / 2. So a lane loads or
// stores its channels as one vector, and nothing is transposed.
#pragma once

#include "conv_gemm_tile.cuh"
#include "conv_split.cuh"
#include "conv_thin.h"

namespace fastgan::cuda {

constexpr int kTilePixels = 128;           // of a tile, at most
constexpr int kFineBytes = 16 * 1024;      // of the fine image in a tile, at most

// Coarse channels of a block.
template <class T>
constexpr int kBlockChannels = 8 * kVector<T>;

// Elements of K that one instruction takes.
template <class T>
constexpr int kInstructionK = kStep<T> / 2;

// Elements of a 32-bit register of an operand: K = (w * 4 + t) * kWordElements + e for register w = 0, 1 of lane t.
template <class T>
constexpr int kWordElements = 4 / static_cast<int>(sizeof(T));

__device__ __forceinline__ uint32_t operand_word(const __nv_bfloat16 (&elements)[2]) {
  uint32_t word;
  memcpy(&word, elements, sizeof word);
  return word;
}
__device__ __forceinline__ uint32_t operand_word(const __half (&elements)[2]) {
  uint32_t word;
  memcpy(&word, elements, sizeof word);
  return word;
}
__device__ __forceinline__ uint32_t operand_word(const float (&element)[1]) { return to_tf32(element[0]); }

// A word loaded from memory.
template <class T>
__device__ __forceinline__ uint32_t operand_word(uint32_t word) {
  T elements[kWordElements<T>];
  memcpy(static_cast<void*>(elements), &word, sizeof word);
  return operand_word(elements);
}

struct PatchTiles {
  ConvShape shape;
  Layout weight_layout;
  int rows, columns;          // coarse pixels of a tile; those of the last one may lie outside the image
  int tiles_y, tiles_x;       // of a sample
  int fine_rows, row_chunks;  // of a tile in shared memory
  bool fine_by_chunk;
  Divider by_columns, by_row_chunks;

  __host__ __device__ int tiles() const { return static_cast<int>(shape.samples) * tiles_y * tiles_x; }
  __host__ __device__ int fine_bytes() const { return fine_rows * row_chunks * kChunkBytes; }
};

// The fewest tiles, of these the ones with the least of the fine image.
inline PatchTiles patch_tiles(const ConvShape& s, Layout weight_layout, DType dtype, const void* fine) {
  const int element = dtype == DType::Float32 ? 4 : 2, vector = kChunkBytes / element;
  const int h = static_cast<int>(s.coarse_h), w = static_cast<int>(s.coarse_w), c = static_cast<int>(s.fine_channels);
  const bool by_chunk = s.fine_w * c % vector == 0 && aligned16(fine);
  const auto pieces = [](int all, int each) { return (all + each - 1) / each; };
  const auto cut = [&](int rows, int columns) {
    const int elements = ((columns - 1) * s.stride_w + s.kernel_w) * c;
    const int row_chunks = pieces(elements + vector - 1, vector);
    return PatchTiles{s, weight_layout, rows, columns, pieces(h, rows), pieces(w, columns),
                      (rows - 1) * s.stride_h + s.kernel_h, row_chunks, by_chunk,
                      Divider(static_cast<uint32_t>(columns)), Divider(static_cast<uint32_t>(row_chunks))};
  };
  PatchTiles best = cut(1, 1);
  for (int columns = w; columns > 1; columns = pieces(columns, 2)) {
    int rows = kTilePixels / columns < h ? kTilePixels / columns : h;
    while (rows > 1 && cut(rows, columns).fine_bytes() > kFineBytes) rows = pieces(rows, 2);
    if (rows == 0) continue;
    const PatchTiles tiles = cut(pieces(h, pieces(h, rows)), columns);
    const auto work = [](const PatchTiles& t) { return int64_t{t.tiles()} * (int64_t{1 << 20} + t.fine_bytes()); };
    if (tiles.fine_bytes() <= kFineBytes && work(tiles) < work(best)) best = tiles;
  }
  return best;
}

struct PatchTile {
  int n, i, j;        // sample, first coarse pixel
  int first_element;  // of a fine row, that the tile's patches take; negative left of the image
};

__device__ __forceinline__ PatchTile patch_tile(const PatchTiles& all, int index) {
  const int line = index / all.tiles_x, n = line / all.tiles_y;
  const int i = (line - n * all.tiles_y) * all.rows, j = (index - line * all.tiles_x) * all.columns;
  return {n, i, j, (j * all.shape.stride_w - all.shape.padding_w) * static_cast<int>(all.shape.fine_channels)};
}

// Where the tile's first element lies behind a chunk's beginning, in memory and in shared memory.
template <class T>
__device__ __forceinline__ int skew(const PatchTile& tile) {
  return tile.first_element & (kVector<T> - 1);
}

// Issues the copies of the tile's fine pixels.
template <class T, int kThreads>
__device__ __forceinline__ void fill_fine(const PatchTiles& all, const PatchTile& tile, const T* fine,
                                          unsigned char* shared) {
  constexpr int V = kVector<T>;
  const ConvShape& s = all.shape;
  const int fine_h = static_cast<int>(s.fine_h), row_elements = static_cast<int>(s.fine_w * s.fine_channels);
  const int y0 = tile.i * s.stride_h - s.padding_h, first = tile.first_element - skew<T>(tile);
  for (int q = threadIdx.x; q < all.fine_rows * all.row_chunks; q += kThreads) {
    const int row = all.by_row_chunks.quotient(q), y = y0 + row, element = first + (q - row * all.row_chunks) * V;
    const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(fine_h) && element >= 0;
    const int valid = inside ? row_elements - element : 0;
    const int offset = valid > 0 ? (tile.n * fine_h + y) * row_elements + element : 0;
    fill_chunk(shared + q * kChunkBytes, fine + offset, valid, all.fine_by_chunk);
  }
}

// A pixel's place in the tile in shared memory, in elements. One past the tile's end repeats the first.
template <class T>
__device__ __forceinline__ int pixel_offset(const PatchTiles& all, int pixel) {
  if (pixel >= all.rows * all.columns) return 0;
  const int row = all.by_columns.quotient(pixel), column = pixel - row * all.columns;
  return row * all.shape.stride_h * all.row_chunks * kVector<T> +
         column * all.shape.stride_w * static_cast<int>(all.shape.fine_channels);
}

// A column's distance from its pixel in the tile, in elements; negative past the last column.
template <class T>
__device__ __forceinline__ int column_offset(const PatchTiles& all, int column) {
  const int channels = static_cast<int>(all.shape.fine_channels), taps = all.shape.kernel_h * all.shape.kernel_w;
  if (column >= taps * channels) return -1;
  const bool channels_last = all.weight_layout == Layout::ChannelsLast;
  const int tap = channels_last ? column / channels : column % taps;
  const int c = channels_last ? column % channels : column / taps;
  const int a = tap / all.shape.kernel_w, b = tap % all.shape.kernel_w;
  return a * all.row_chunks * kVector<T> + b * channels + c;
}

}  // namespace fastgan::cuda
