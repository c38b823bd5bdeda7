// Channels-first to channels-last and back: every matrix of a batch turned over.
#pragma once

#include "cpu/capability.h"
#include "cpu/image_tiles.h"

namespace fastgan::cpu {

constexpr int64_t kTransposeColumns = 256;  // of a unit

struct TransposeParams {
  DType dtype;              // Float32
  int64_t samples, rows, columns;
  const float* from;        // (samples, rows, columns)
  float* to;                // (samples, columns, rows)

  int64_t units() const { return samples * ceil_div(columns, kTransposeColumns); }
};

// Units: samples * pieces of kTransposeColumns columns.
FASTGAN_DECLARE_KERNEL(transpose_matrices, TransposeParams)

}  // namespace fastgan::cpu
