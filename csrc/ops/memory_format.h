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

// The memory format of aten::convolution's results.
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

// The elements of t by this size and these strides; detached, for autograd lets nobody write to a view that an op returns.
inline Tensor restrided(const Tensor& t, const std::vector<int64_t>& size, const std::vector<int64_t>& stride) {
  return call("aten::detach", "", call("aten::as_strided", "", t, size, stride, std::optional<int64_t>()));
}

// t, dense and in this format, with the strides that torch gives to a new tensor of the format, also where a dimension is 1.
inline Tensor with_strides_of_format(const Tensor& t, bool channels_last) {
  const std::vector<int64_t> size{t.size(0), t.size(1), t.size(2), t.size(3)};
  const std::vector<int64_t> stride = strides_in_format(size, channels_last);
  bool same = true;
  for (int64_t d = 0; d < 4; d++) same = same && t.stride(d) == stride[d];
  return same ? t : restrided(t, size, stride);
}

}  // namespace fastgan::ops
