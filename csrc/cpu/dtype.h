// The element types the CPU kernels take. double is computed by the DEFAULT kernels, in double; the others in float.
#pragma once

#include <cstdint>

namespace fastgan::cpu {

enum class DType : int { Float32, BFloat16, Float16, Float64 };

// Storage of the 16-bit types: kernels convert in registers and never compute in them.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// The arithmetic type of a storage type.
template <class S>
struct arithmetic {
  using type = float;
};
template <>
struct arithmetic<double> {
  using type = double;
};
template <class S>
using arithmetic_t = typename arithmetic<S>::type;

}  // namespace fastgan::cpu
