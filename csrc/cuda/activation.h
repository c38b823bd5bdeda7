// The activations the fused kernels know.
#pragma once

namespace fastgan::cuda {

enum class Activation : int { None = 0, Relu = 1, LeakyRelu = 2, Tanh = 3 };

}  // namespace fastgan::cuda
