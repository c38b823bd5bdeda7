// The activations that kernels apply, the same for CPU and CUDA kernels.
#pragma once

#include "../cpu/activation_kind.h"

namespace fastgan::cuda {

using cpu::Activation;

}  // namespace fastgan::cuda
