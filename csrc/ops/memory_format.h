// Channels-last or contiguous: which of the two a tensor is in, and which one a convolution gives back.
#pragma once

#include "ops/stable.h"

namespace fastgan::ops {

using torch::headeronly::MemoryFormat;

// torch's rule (suggest_memory_format) for (N, C, H, W): strides that grow in the order C, W, H, N. Ambiguous where
// dimensions are 1, and then decided as torch decides.
inline bool suggests_channels_last(const Tensor& t) {
  int64_t least = 0;
  if (t.stride(1) == 0) return false;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) == 0 || t.stride(d) < least) return false;
    if (d == 0 && least == t.stride(1)) return false;  // N111 and the like are contiguous
    least = t.stride(d) * (t.size(d) > 1 ? t.size(d) : 1);
  }
  return true;
}

// The memory format of aten::convolution's results on the CPU.
inline bool output_is_channels_last(const Tensor& x, const Tensor& weight) {
  return suggests_channels_last(x) || suggests_channels_last(weight);
}

inline Tensor in_format(const Tensor& t, bool channels_last) {
  return dense(t, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// The strides of a new tensor (N, C, H, W) of this format.
inline std::vector<int64_t> strides_in_format(const std::vector<int64_t>& size, bool channels_last) {
  const int64_t c = size[1], h = size[2], w = size[3];
  if (channels_last) return {c * h * w, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

}  // namespace fastgan::ops
