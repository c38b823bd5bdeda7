// How kernels that work sample by sample cut a batch: every sample into pieces of at most kPieceElements.
#pragma once

#include <cstdint>

namespace fastgan::cpu {

constexpr int64_t kPieceElements = 16384;

struct SampleTiles {
  int64_t pieces;  // in a sample
  int64_t units;   // pieces of all samples, sample by sample

  SampleTiles(int64_t samples, int64_t sample_size)
      : pieces((sample_size + kPieceElements - 1) / kPieceElements), units(samples * pieces) {}
};

}  // namespace fastgan::cpu
