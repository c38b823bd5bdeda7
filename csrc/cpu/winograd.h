// Convolutions of kernel 3, 4 and 5 that keep or halve the size, and their transposes, by Winograd's minimal filtering.
//
// Both directions share one geometry: a *small* side (N, C_s, H, W), a *large* side (N, C_l, S H, S W), S the stride, both
// channels-last, and a weight (C_s, C_l, K, K). Three products are all there is:
//
//     up        large <- small     transposed convolution forward; gradient of a convolution's input
//     down      small <- large     convolution forward; gradient of a transposed convolution's input
//     gradient  weight <- both     of either
//
// Output pixels of one remainder modulo S along each axis (a *phase*) are a convolution with every S-th tap. For kernel 4,
//     large[2i]     = w1 small[i] + w3 small[i-1]           large[2i+1] = w0 small[i+1] + w2 small[i]
// both of which are coefficients of one polynomial product, of 4 consecutive small values by 2 taps: evaluated at the 5
// points {0, 1/2, -1, 2, infinity}, multiplied there, interpolated. The even phase takes coefficients c0..c3 of a tile and
// adds c4 to the next tile, the odd phase takes c1..c4 and adds c0 to the tile before ("overlap-add"): so one transform of
// 4x4 small pixels serves all four phases, and 25 products replace 64. `down` and the gradient are exact transposes.
//
//     K  S  padding  taps of a phase  points               products of a tile
//     4  2  1        2, 2             5                    100 for 256
//     3  2  1        1, 2             5, those of kernel 4  82 for 144     w3 = 0
//     3  1  1        3                6                     36 for 144
//     5  2  2        3, 2             6                    122 for 400     as kernel 6, w5 = 0
//
// With 3 taps the points are {0, 1/2, -1/2, 2, -2, infinity}, phases take c1..c4 and add on both sides. A phase short of a tap
// has weight 0 at infinity: the *places* of the four phases are ordered, point by point, such that products leave these out.
//
// A *tile* is 4x4 pixels of the small side; sides that 4 does not divide are padded with zeros. A *block* is a run of whole
// images of about block_rows() tiles, the rows of one matrix product. Matrices have a *depth* (the summed index) cut at
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
constexpr int64_t kBlockFloats = 25 * 128 * 64;  // a product's accumulators, points x rows x 4 vectors: they stay in L2
constexpr int64_t kDepth = 128;            // of a product: a panel of weights, 128 x 32 floats, stays in L1
constexpr int64_t kDepthStride = 144;      // floats from row to row of transformed data: not a power of two, against
constexpr int64_t kPointPadding = 80;      // aliasing in the cache, as between points

// Floats of one vector of the capability in use; packed weights and accumulators depend on it (`lanes` below).
inline int64_t vector_lanes() {
  switch (capability()) {
    case Capability::AVX512: return 16;
    case Capability::AVX2: return 8;
    case Capability::DEFAULT: break;
  }
  return 4;
}

// Floats between two points of packed weights.
constexpr int64_t packed_stride(int64_t lanes) { return kDepth * 4 * lanes + kPointPadding; }

struct WinogradShape {
  int64_t images, height, width;  // of the small side
  int64_t small_channels, large_channels;
  int64_t kernel, stride;

  int64_t taps() const { return ceil_div(kernel, stride); }  // of a phase, along an axis
  int64_t phases() const { return stride * stride; }
  int64_t axis_points() const { return kTile + taps() - 1; }
  int64_t points() const { return axis_points() * axis_points(); }
  int64_t large_depth() const { return kDepth / phases(); }  // channels of the large side in one depth, in all phases

  // The places of the phases whose weights at this point are not zero. At infinity along x, the last point of a row, the
  // place of phase (y, x) is (x, y), so that these are neighbours.
  struct Places {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
  };
  Places places(int64_t point) const {
    if (kernel == stride * taps()) return {0, phases()};
    const int64_t last = axis_points() - 1;
    const int64_t halvings = (point / axis_points() == last) + (point % axis_points() == last), count = 4 >> halvings;
    // the even phase is the short one of kernel 3, the odd one of kernel 5
    return kernel == 3 ? Places{4 - count, 4} : Places{0, count};
  }
  int64_t products() const {
    int64_t sum = 0;
    for (int64_t point = 0; point < points(); point++) sum += places(point).count();
    return sum;
  }

  int64_t tile_rows() const { return ceil_div(height, kTile); }
  int64_t tile_columns() const { return ceil_div(width, kTile); }
  int64_t image_tiles() const { return tile_rows() * tile_columns(); }
  int64_t block_rows() const { return kBlockFloats / 64 / points(); }
  int64_t block_images() const { return at_least(at_most(block_rows() / image_tiles(), images), 1); }
  int64_t block_tiles() const { return block_images() * image_tiles(); }
  int64_t blocks() const { return ceil_div(images, block_images()); }
  int64_t small_depths() const { return ceil_div(small_channels, kDepth); }
  int64_t large_depths() const { return ceil_div(large_channels, large_depth()); }
  // Images of block b, the last one may be short of some.
  int64_t images_of(int64_t block) const { return at_most(block_images(), images - block * block_images()); }

  // Floats between two points of transformed data, and of all of it for one block.
  int64_t point_stride() const { return block_tiles() * kDepthStride + kPointPadding; }
  int64_t small_block() const { return small_depths() * points() * point_stride(); }
  int64_t large_block() const { return large_depths() * points() * point_stride(); }

  // A product computes 4 vectors of columns: `up` one vector of large channels in four phases, or 4 in one; `down` 4 of small
  // channels.
  int64_t up_columns(int64_t lanes) const { return ceil_div(phases() * large_channels, 4 * lanes); }
  int64_t down_columns(int64_t lanes) const { return ceil_div(small_channels, 4 * lanes); }
  // Floats between two points of a product's accumulators, and of all of them.
  int64_t product_stride(int64_t lanes) const { return block_tiles() * 4 * lanes + kPointPadding; }
  int64_t product(int64_t lanes) const { return points() * product_stride(lanes); }
  // Floats of the packed weights of one (columns, depth).
  int64_t packed_block(int64_t lanes) const { return points() * packed_stride(lanes); }
};

// A run of blocks whose transformed data is held at one time.
struct WinogradChunk {
  int64_t first_block, blocks;
};

// The weight (C_s, C_l, K, K), contiguous or channels-last.
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
  const void* image;   // (N, C, H, W) or (N, C, S H, S W), channels-last
  float* transformed;  // (chunk.blocks, depths, points, tiles, kDepthStride)
  const void* z;       // like image, or null
  const float *mean, *scale, *beta, *offset, *slope_z;  // (C)
  Activation activation;
  double negative_slope;
};

// Units: images of the chunk * image_tiles. Depth index: the channel.
FASTGAN_DECLARE_KERNEL(winograd_transform_small, WinogradTransformParams)
// Depth index: place of the phase * (channels of this depth, a multiple of the vector) + channel.
FASTGAN_DECLARE_KERNEL(winograd_transform_large, WinogradTransformParams)

// ---- transforms of the weight ---------------------------------------------------------------------------------------

struct WinogradPackParams {
  DType dtype;
  WinogradShape shape;
  WinogradWeight weight;
  float* packed;  // (columns, depths, points, 2, kDepth, two vectors)
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
  float* scratch;            // of this range of units: product(lanes), and where packed is null depths * packed_block
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

// Accumulators are (small_depths, large_depths, points, kGradientStride). Either one unit does a (small depth, large depth)
// with all its points, which needs accumulators for itself alone; or, where that gives too few units or the data comes in
// several chunks, accumulate runs over points and finish follows.
struct WinogradGradientParams {
  DType dtype;
  WinogradShape shape;
  WinogradChunk chunk;
  const float *small, *large;  // transformed
  float* accumulators;
  bool add;             // to what the accumulators hold
  void* grad_weight;    // (C_s, C_l, K, K)
  bool channels_last;
};

// Units: small_depths * large_depths; accumulators for one.
FASTGAN_DECLARE_KERNEL(winograd_gradient, WinogradGradientParams)
// Units: small_depths * large_depths * points; accumulators for all.
FASTGAN_DECLARE_KERNEL(winograd_gradient_accumulate, WinogradGradientParams)
// Units: small_depths * large_depths * kDepth, one row of accumulators each.
FASTGAN_DECLARE_KERNEL(winograd_gradient_finish, WinogradGradientParams)

}  // namespace fastgan::cpu
