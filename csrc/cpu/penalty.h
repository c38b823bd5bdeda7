// The reductions of the gradient penalty: squared norm of each sample, then the scaled gradient.
#pragma once

#include "cpu/capability.h"
#include "cpu/sample_tiles.h"

namespace fastgan::cpu {

struct PenaltyParams {
  DType dtype;
  int64_t sample_size;  // elements of a sample, which lie together in memory
  const void* grad;     // (samples, sample_size)
  double* squares;      // (units) penalty_norms: sum of squares of each piece
  const void* factor;   // (samples) penalty_scale: in the arithmetic type
  void* out;            // (samples, sample_size) penalty_scale: factor[n] * grad[n]
};

// Units of both: SampleTiles(samples, sample_size).units.
FASTGAN_DECLARE_KERNEL(penalty_norms, PenaltyParams)
FASTGAN_DECLARE_KERNEL(penalty_scale, PenaltyParams)

}  // namespace fastgan::cpu
