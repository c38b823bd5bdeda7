// The two passes of the gradient of batch normalisation and activation: sums over each channel, then the gradient itself.
#pragma once

#include "cpu/activation_kind.h"
#include "cpu/capability.h"
#include "cpu/image_tiles.h"

namespace fastgan::cpu {

struct BnActBackwardParams {
  DType dtype;
  ImageShape shape;
  const void* grad_y;  // (N, C, S) in shape.layout
  const void* z;       // the same
  const void* y;       // the same; read for tanh only, else may be null
  // Per channel, (channel_period), in the arithmetic type:
  const void* mean;
  const void* scale;  // gamma * invstd, as in the forward pass
  const void* beta;
  Activation activation;
  double negative_slope;  // of leaky_relu
  // Results of bn_act_backward_reduce, (parts, C), see image_tiles.h:
  double* sum_g;           // sum of g = grad_y * act'(u), u = (z - mean) * scale + beta
  double* sum_g_centered;  // sum of g * (z - mean)
  // For bn_act_backward_elemt: grad_z = scale * g - (offset + slope_z * (z - mean)), offset and slope_z (channel_period)
  const void* offset;   // scale * mean_g
  const void* slope_z;  // scale * invstd * mean_g_xhat
  void* grad_z;         // (N, C, S) in shape.layout; may be grad_y
};

// Units: ReductionTiles(shape).units.
FASTGAN_DECLARE_KERNEL(bn_act_backward_reduce, BnActBackwardParams)

// Units: ElementwiseTiles(shape).units.
FASTGAN_DECLARE_KERNEL(bn_act_backward_elemt, BnActBackwardParams)

}  // namespace fastgan::cpu
