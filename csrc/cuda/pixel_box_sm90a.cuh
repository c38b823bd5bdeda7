// Boxes of pixels that tensor copies move: an image cut into boxes of width x height x samples, powers of two, each a
// step or a tile of a convolution's product.
#pragma once

#include "tensor_map_sm90a.cuh"
#include "vec.cuh"

namespace fastgan::cuda {

struct PixelBox {
  int log_w, log_h, log_n;
  int tiles_w, tiles_h, tiles_n;

  struct Corner {
    int w, h, n;
  };
  // Of box number `i` of tiles().
  __device__ __forceinline__ Corner corner(int i) const {
    const int w = i % tiles_w, rest = i / tiles_w;
    return {w << log_w, rest % tiles_h << log_h, rest / tiles_h << log_n};
  }
  // Pixel number `row` of a box.
  __device__ __forceinline__ Corner pixel(const Corner& corner, int row) const {
    return {corner.w + (row & ((1 << log_w) - 1)), corner.h + (row >> log_w & ((1 << log_h) - 1)),
            corner.n + (row >> (log_w + log_h))};
  }
  int tiles() const { return tiles_w * tiles_h * tiles_n; }
};

// The box of 1 << log_pixels pixels that needs the fewest boxes, the widest of those. A box of a tensor map spans at
// most 256 pixels a side; `step` of them lie between two that it copies.
inline PixelBox choose_box(int log_pixels, int64_t width, int64_t height, int64_t samples, int step_w, int step_h) {
  PixelBox best{};
  for (int log_w = log_pixels; log_w >= 0; --log_w) {
    for (int log_h = log_pixels - log_w; log_h >= 0; --log_h) {
      if (step_w << log_w > 256 || step_h << log_h > 256) continue;
      const int log_n = log_pixels - log_w - log_h;
      const auto tiles = [](int64_t extent, int log) { return static_cast<int>(ceil_div(extent, 1 << log)); };
      const PixelBox box{log_w, log_h, log_n, tiles(width, log_w), tiles(height, log_h), tiles(samples, log_n)};
      if (best.tiles() == 0 || box.tiles() < best.tiles()) best = box;
    }
  }
  return best;
}

// Copies such boxes, 64 channels each, of a channels_last image of 16-bit elements (samples, height, width, channels).
inline cudaError_t encode_boxes(const PixelBox& box, const void* image, int64_t samples, int64_t height, int64_t width,
                                int64_t channels, int step_w, int step_h, CUtensorMap* map) {
  const auto u = [](int64_t x) { return static_cast<uint64_t>(x); };
  return encode_tensor_map(
      BoxedTensor<4>{image,
                     {u(channels), u(width), u(height), u(samples)},
                     {u(channels * 2), u(width * channels * 2), u(height * width * channels * 2)},
                     {64, 1u << box.log_w, 1u << box.log_h, 1u << box.log_n},
                     {1, static_cast<uint32_t>(step_w), static_cast<uint32_t>(step_h), 1},
                     128},
      map);
}

}  // namespace fastgan::cuda
