// An activation alone, and the gradient through it from its output.
#pragma once

#include "cpu/activation_kind.h"
#include "cpu/capability.h"

namespace fastgan::cpu {

struct ActivationParams {
  DType dtype;
  Activation activation;
  double negative_slope;  // of leaky_relu
  const void* x;          // (size) forward: the argument; backward: the gradient of the output
  const void* y;          // (size) backward: the activation's output; forward: unused
  void* out;              // (size) may be x
};

// Units are elements. out = act(x)
FASTGAN_DECLARE_KERNEL(activation, ActivationParams)

// Units are elements. out = x * act', act' from the output y; the three have the same memory order
FASTGAN_DECLARE_KERNEL(activation_backward, ActivationParams)

}  // namespace fastgan::cpu
