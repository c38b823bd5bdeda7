// The (N, C, S) view that the normalisation kernels take of an image batch, S being the product of its spatial sizes.
#pragma once

#include <cstdint>

namespace fastgan::cpu {

enum class Layout : int {
  ChannelsFirst,  // element (n, c, s) at (n * C + c) * S + s   (contiguous NCHW)
  ChannelsLast,   // element (n, c, s) at (n * S + s) * C + c   (NHWC; also any tensor with S = 1)
};

struct ImageShape {
  int64_t samples;   // N
  int64_t channels;  // C
  int64_t pixels;    // S
  Layout layout;

  int64_t numel() const { return samples * channels * pixels; }
  int64_t per_channel() const { return samples * pixels; }
};

}  // namespace fastgan::cpu
