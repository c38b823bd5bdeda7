// Channels-last or contiguous copies of images on the CPU, faster than a generic strided copy.
#pragma once

#include "ops/memory_format.h"

namespace fastgan::ops {

// t (N, C, H, W) in the memory format asked for: itself where it is in that format already.
Tensor in_format_cpu(const Tensor& t, bool channels_last);

// The same for a result: with the strides that torch gives to a new tensor of this format, also where a dimension is 1.
Tensor result_in_format(const Tensor& t, bool channels_last);

// The elements of t by this size and these strides; detached, for autograd lets nobody write to a view that an op returns.
Tensor restrided(const Tensor& t, const std::vector<int64_t>& size, const std::vector<int64_t>& stride);

}  // namespace fastgan::ops
