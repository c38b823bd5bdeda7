// Normalise with given statistics, scale, shift and activate, in one pass.
#pragma once

#include "cpu/activation_kind.h"
#include "cpu/capability.h"
#include "cpu/image_tiles.h"

namespace fastgan::cpu {

struct BnActParams {
  DType dtype;
  ImageShape shape;
  const void* z;      // (N, C, S) in shape.layout
  void* y;            // the same; may be z itself
  // Per channel, (channel_period), in the arithmetic type:
  const void* mean;
  const void* scale;  // gamma * invstd
  const void* beta;
  Activation activation;
  double negative_slope;  // of leaky_relu
};

// Units: ElementwiseTiles(shape).units.
FASTGAN_DECLARE_KERNEL(bn_act, BnActParams)

}  // namespace fastgan::cpu
