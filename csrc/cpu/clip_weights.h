// Clamp a range of one tensor to [-clip_value, clip_value].
#pragma once

#include "cpu/capability.h"

namespace fastgan::cpu {

struct ClipWeightsParams {
  DType dtype;
  void* param;        // (size) in any order
  double clip_value;  // >= 0
};

// Units are elements.
FASTGAN_DECLARE_KERNEL(clip_weights, ClipWeightsParams)

}  // namespace fastgan::cpu
