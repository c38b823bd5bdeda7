// Convolutions of kernel 4, stride 2, padding 1, and their transposes, by Winograd's minimal filtering F(4x4, 2x2).
//
// Both directions share one geometry: a *small* side (N, C_s, H, W), a *large* side (N, C_l, 2H, 2W), both channels-last,
// and a weight (C_s, C_l, 4, 4). Three products are all there is:
//
//     up        large <- small     transposed convolution forward; gradient of a convolution's input
//     down      small <- large     convolution forward; gradient of a transposed convolution's input
//     gradient  weight <- both     of either
//
// Output pixels of one parity along each axis (a *phase*) are a convolution with 2x2 of the 16 taps:
//     large[2i]     = w1 small[i] + w3 small[i-1]           large[2i+1] = w0 small[i+1] + w2 small[i]
// both of which are coefficients of one polynomial product, of 4 consecutive small values by 2 taps: evaluated at the 5
// points {0, 1/2, -1, 2, infinity}, multiplied there, interpolated. The even phase takes coefficients c0..c3 of a tile and
// adds c4 to the next tile, the odd phase takes c1..c4 and adds c0 to the tile before ("overlap-add"): so one transform of
// 4x4 small pixels serves all four phases, and 25 products replace 64. `down` and the gradient are exact transposes.
//
// A *tile* is 4x4 pixels of the small side; sides that 4 does not divide are padded with zeros. A *block* is a run of whole
// images of about kBlockTiles tiles, the rows of one matrix product. Matrices have a *depth* (the summed index) cut at
// kDepth. Results depend on neither the number of threads nor how work was cut into chunks of blocks.
//
// Sources: Winograd 1980; Lavin & Gray 2016 (arXiv:1509.09308); Toom-Cook points as in Barabasz et al. 2020
// (arXiv:1803.10986). Error against float64: tests/numerics.py, WINOGRAD_L2 and WINOGRAD_MAX.
#pragma once

#include "cpu/activation_kind.h"
#include "cpu/capability.h"
#include "cpu/image_tiles.h"

namespace fastgan::cpu {

constexpr int64_t kTile = 4;               // small-side pixels of a tile along an axis
constexpr int64_t kPoints = 25;            // 5 x 5 evaluation points
constexpr int64_t kBlockTiles = 128;       // rows of a product: its accumulators, 25 x 128 x 64 floats, stay in L2
constexpr int64_t kDepth = 128;            // of a product: a panel of weights, 128 x 32 floats, stays in L1
constexpr int64_t kDepthStride = 144;      // floats from row to row of transformed data: not a power of two, against
constexpr int64_t kPointPadding = 80;      // aliasing in the cache, as between points
constexpr int64_t kLargeDepth = kDepth / 4;  // channels of the large side in one depth: each comes in four phases

// Floats of one vector of the capability in use; packed weights and accumulators depend on it (`lanes` below).
inline int64_t vector_lanes() {
  switch (capability()) {
    case Capability::AVX512: return 16;
    case Capability::AVX2: return 8;
    case Capability::DEFAULT: break;
  }
  return 4;
}

struct WinogradShape {
  int64_t images, height, width;  // of the small side
  int64_t small_channels, large_channels;

  int64_t tile_rows() const { return ceil_div(height, kTile); }
  int64_t tile_columns() const { return ceil_div(width, kTile); }
  int64_t image_tiles() const { return tile_rows() * tile_columns(); }
  int64_t block_images() const { return at_least(at_most(kBlockTiles / image_tiles(), images), 1); }
  int64_t block_tiles() const { return block_images() * image_tiles(); }
  int64_t blocks() const { return ceil_div(images, block_images()); }
  int64_t small_depths() const { return ceil_div(small_channels, kDepth); }
  int64_t large_depths() const { return ceil_div(large_channels, kLargeDepth); }
  // Images of block b, the last one may be short of some.
  int64_t images_of(int64_t block) const { return at_most(block_images(), images - block * block_images()); }

  // Floats between two points of transformed data, and of all of it for one block.
  int64_t point_stride() const { return block_tiles() * kDepthStride + kPointPadding; }
  int64_t small_block() const { return small_depths() * kPoints * point_stride(); }
  int64_t large_block() const { return large_depths() * kPoints * point_stride(); }

  // A product computes 4 vectors of columns: `up` one vector of large channels in four phases, `down` 4 of small channels.
  int64_t up_columns(int64_t lanes) const { return ceil_div(large_channels, lanes); }
  int64_t down_columns(int64_t lanes) const { return ceil_div(small_channels, 4 * lanes); }
  // Floats between two points of a product's accumulators, and of all of them.
  int64_t product_stride(int64_t lanes) const { return block_tiles() * 4 * lanes + kPointPadding; }
  int64_t product(int64_t lanes) const { return kPoints * product_stride(lanes); }
};

// Floats between two points of packed weights, and of all of them for one (columns, depth).
constexpr int64_t packed_stride(int64_t lanes) { return kDepth * 4 * lanes + kPointPadding; }
constexpr int64_t packed_block(int64_t lanes) { return kPoints * packed_stride(lanes); }

// A run of blocks whose transformed data is held at one time.
struct WinogradChunk {
  int64_t first_block, blocks;
};

// The weight (C_s, C_l, 4, 4), contiguous or channels-last.
struct WinogradWeight {
  const void* data;
  bool channels_last;
};

// ---- transforms of the data -----------------------------------------------------------------------------------------

// With `z`, what is transformed is not `image` itself but the gradient that BatchNorm and activation pass on, given the
// gradient `image` of their output, as in bn_act_backward.h (float32 only, and not tanh).
struct WinogradTransformParams {
  DType dtype;
  WinogradShape shape;
  WinogradChunk chunk;
  const void* image;   // (N, C, H, W) or (N, C, 2H, 2W), channels-last
  float* transformed;  // (chunk.blocks, depths, 25, tiles, kDepthStride)
  const void* z;       // like image, or null
  const float *mean, *scale, *beta, *offset, *slope_z;  // (C)
  Activation activation;
  double negative_slope;
};

// Units: images of the chunk * image_tiles. Depth index: the channel.
FASTGAN_DECLARE_KERNEL(winograd_transform_small, WinogradTransformParams)
// Depth index: phase * (channels of this depth, a multiple of the vector) + channel.
FASTGAN_DECLARE_KERNEL(winograd_transform_large, WinogradTransformParams)

// ---- transforms of the weight ---------------------------------------------------------------------------------------

struct WinogradPackParams {
  DType dtype;
  WinogradShape shape;
  WinogradWeight weight;
  float* packed;  // (columns, depths, 25, 2, kDepth, two vectors)
};

// Units: columns * depths.
FASTGAN_DECLARE_KERNEL(winograd_pack_up, WinogradPackParams)
FASTGAN_DECLARE_KERNEL(winograd_pack_down, WinogradPackParams)

// ---- products -------------------------------------------------------------------------------------------------------

struct WinogradProductParams {
  DType dtype;
  WinogradShape shape;
  WinogradChunk chunk;
  const float* transformed;  // the chunk's, of the small side (up) or the large side (down)
  const float* packed;       // null: packed on the way, into scratch
  WinogradWeight weight;     // where packed is null
  float* scratch;            // of this range of units: product(lanes), and where packed is null depths * packed_block(lanes)
  void* out;                 // the whole other side
  const float* bias;         // (channels) or null
  // out = act((product + bias - mean) * scale + beta) where scale is given; not tanh.
  const float *mean, *scale, *beta;
  Activation activation;
  double negative_slope;
  // Where given, (blocks, channels): number, mean and squared deviations of product + bias in a block (float32 only).
  double *count, *block_mean, *block_square;
};

// Units: columns * chunk.blocks, blocks fastest.
FASTGAN_DECLARE_KERNEL(winograd_up, WinogradProductParams)
FASTGAN_DECLARE_KERNEL(winograd_down, WinogradProductParams)

// ---- gradient of the weight -----------------------------------------------------------------------------------------

constexpr int64_t kGradientStride = kDepth * kDepth + kPointPadding;  // floats between two points

// Accumulators are (small_depths, large_depths, 25, kGradientStride). Either one unit does a (small depth, large depth)
// with all its points, which needs accumulators for itself alone; or, where that gives too few units or the data comes in
// several chunks, accumulate runs over points and finish follows.
struct WinogradGradientParams {
  DType dtype;
  WinogradShape shape;
  WinogradChunk chunk;
  const float *small, *large;  // transformed
  float* accumulators;
  bool add;             // to what the accumulators hold
  void* grad_weight;    // (C_s, C_l, 4, 4)
  bool channels_last;
};

// Units: small_depths * large_depths; accumulators for one.
FASTGAN_DECLARE_KERNEL(winograd_gradient, WinogradGradientParams)
// Units: small_depths * large_depths * 25; accumulators for all.
FASTGAN_DECLARE_KERNEL(winograd_gradient_accumulate, WinogradGradientParams)
// Units: small_depths * large_depths * kDepth, one row of accumulators each.
FASTGAN_DECLARE_KERNEL(winograd_gradient_finish, WinogradGradientParams)

}  // namespace fastgan::cpu
