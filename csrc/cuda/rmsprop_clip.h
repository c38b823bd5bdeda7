// rmsprop_clip: one RMSprop step and the weight clip in the same pass. Description: rmsprop_clip.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "dtype.h"

namespace fastgan::cuda {

struct RmspropClipParams {
  void* const* weights;      // `tensors` device pointers each, to numel[t] elements in the same memory order
  void* const* grads;
  void* const* square_avgs;
  void* const* grad_avgs;         // null unless centred
  void* const* momentum_buffers;  // null where momentum == 0
  const int64_t* numel;
  int tensors;
  DType dtype;  // of all of them
  const float* device_lr;  // in device memory, read by the kernel in place of lr; null: lr
  double lr, alpha, eps, weight_decay, momentum;
  bool maximize;
  double clip_value;  // < 0: no clip
};

cudaError_t rmsprop_clip(const RmspropClipParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
