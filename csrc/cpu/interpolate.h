// Per-sample interpolation between real and fake images.
#pragma once

#include "cpu/capability.h"
#include "cpu/sample_tiles.h"

namespace fastgan::cpu {

struct InterpolateParams {
  DType dtype;
  int64_t sample_size;  // elements of a sample, which lie together in memory
  const void* real;     // (samples, sample_size)
  const void* fake;     // (samples, sample_size)
  void* out;            // (samples, sample_size)
  const void* epsilon;  // (samples) in the arithmetic type
};

// Units: SampleTiles(samples, sample_size).units.
FASTGAN_DECLARE_KERNEL(interpolate, InterpolateParams)

}  // namespace fastgan::cpu
