// The word for an activation in a schema, and the enumeration that kernels take.
#pragma once

#include <string>

#include "cpu/activation_kind.h"
#include "ops/stable.h"

namespace fastgan::ops {

using cpu::Activation;

inline Activation parse_activation(const char* op, const std::string& word) {
  if (word == "none") return Activation::None;
  if (word == "relu") return Activation::Relu;
  if (word == "leaky_relu") return Activation::LeakyRelu;
  check(word == "tanh", op, ": activation is '", word, "'; it takes none, relu, leaky_relu or tanh");
  return Activation::Tanh;
}

}  // namespace fastgan::ops
