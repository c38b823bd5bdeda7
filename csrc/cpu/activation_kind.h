// The activations that kernels apply, on CPU and wherever else they are named.
#pragma once

namespace fastgan::cpu {

enum class Activation : int { None, Relu, LeakyRelu, Tanh };

}  // namespace fastgan::cpu
