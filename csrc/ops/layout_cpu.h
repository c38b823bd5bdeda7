// Channels-last or contiguous copies of images on the CPU, faster than a generic strided copy.
#pragma once

#include "ops/memory_format.h"

namespace fastgan::ops {

// t (N, C, H, W) in the memory format asked for: itself where it is in that format already.
Tensor in_format_cpu(const Tensor& t, bool channels_last);

// The same for a result, with the strides that torch gives it.
inline Tensor result_in_format(const Tensor& t, bool channels_last) {
  return with_strides_of_format(in_format_cpu(t, channels_last), channels_last);
}

}  // namespace fastgan::ops
