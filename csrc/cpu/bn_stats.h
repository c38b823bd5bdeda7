// Mean and sum of squared deviations of every channel of an image batch.
#pragma once

#include "cpu/capability.h"
#include "cpu/image_tiles.h"

namespace fastgan::cpu {

struct BnStatsParams {
  DType dtype;
  ImageShape shape;
  const void* z;   // (N, C, S) in shape.layout
  double* count;   // (parts, C): elements seen
  double* mean;    // (parts, C): their mean
  double* square;  // (parts, C): sum of their squared deviations from that mean
};

// Units: ReductionTiles(shape).units.
FASTGAN_DECLARE_KERNEL(bn_stats, BnStatsParams)

// Chan, Golub, LeVeque 1979: the statistics of two sets together. `count` elements more are added to (n, mean, square).
inline void merge_stats(double& n, double& mean, double& square, double count, double other_mean, double other_square) {
  if (count == 0) return;
  const double total = n + count, delta = other_mean - mean;
  mean += delta * (count / total);
  square += other_square + delta * delta * (n * count / total);
  n = total;
}

}  // namespace fastgan::cpu
