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
  return torch::stable::contiguous(t, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline Tensor empty_channels_last(const Tensor& like, const std::vector<int64_t>& size) {
  return torch::stable::empty(size, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

}  // namespace fastgan::ops
