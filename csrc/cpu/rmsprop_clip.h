// One RMSprop step on a range of one tensor, then the clamp of its weights, in one pass.
#pragma once

#include "cpu/capability.h"

namespace fastgan::cpu {

struct RmspropClipParams {
  DType dtype;            // of all arrays
  void* param;            // (size), all arrays in the same memory order
  const void* grad;       // (size)
  void* square_avg;       // (size)
  void* grad_avg;         // (size); null unless centered
  void* momentum_buffer;  // (size); null unless momentum > 0
  double lr, alpha, eps, weight_decay, momentum;
  bool maximize;
  double clip_value;  // < 0: no clamp
};

// Units are elements.
FASTGAN_DECLARE_KERNEL(rmsprop_clip, RmspropClipParams)

}  // namespace fastgan::cpu
