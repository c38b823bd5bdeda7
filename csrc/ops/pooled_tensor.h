// New CPU tensors whose memory comes from the pool of workspace.h and returns to it with their storage: a training step
// allocates the same sizes over and over. Small tensors, and all where torch is older than 2.11, are torch's own.
// The storage cannot be resized.
#pragma once

#include "ops/memory_format.h"

namespace fastgan::ops {

// Like t, a dense tensor.
Tensor pooled_like(const Tensor& t);

// (N, C, H, W) in this format.
Tensor pooled_in_format(const Tensor& like, const std::vector<int64_t>& size, ScalarType dtype, bool channels_last);

}  // namespace fastgan::ops
