// What every file of csrc/ops uses of torch's stable ABI: tensors, checks with clean messages, calls of other operators.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

// torch's message for a failed call; in torch from 2.13, so weak: null elsewhere.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace fastgan::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Throws unless `condition`. The message names the argument, what it got and what it takes; unlike STD_TORCH_CHECK it shows
// no source line, for the fault is in the caller's code.
template <class... Parts>
void check(bool condition, const Parts&... message) {
  if (condition) return;
  std::ostringstream text;
  (text << ... << message);
  throw std::runtime_error(text.str());
}

inline std::string shape_of(const Tensor& t) {
  std::ostringstream text;
  text << "(";
  for (int64_t d = 0; d < t.dim(); d++) text << (d ? ", " : "") << t.size(d);
  text << (t.dim() == 1 ? ",)" : ")");
  return text.str();
}

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    default: return "another dtype";
  }
}

// float64 for float64 tensors, float32 for all others.
inline ScalarType statistics_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// What torch says of the call that has just failed.
inline const char* failure() {
  return torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace()
                                                    : "torch has printed its own message";
}

// Calls an operator; arguments in the order of its schema, all of them. The first result is returned, or, of several, an
// array.
template <size_t Results = 1, class... Arguments>
auto call(const char* name, const char* overload, const Arguments&... arguments) {
  constexpr size_t size = sizeof...(Arguments) > Results ? sizeof...(Arguments) : Results;
  std::array<StableIValue, size> stack{torch::stable::detail::from(arguments)...};
  const bool failed = torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION) != TORCH_SUCCESS;
  check(!failed, name, " failed: ", failed ? failure() : "");
  if constexpr (Results == 1) {
    return torch::stable::detail::to<Tensor>(stack[0]);
  } else {
    std::array<Tensor, Results> results;
    for (size_t i = 0; i < Results; i++) results[i] = torch::stable::detail::to<Tensor>(stack[i]);
    return results;
  }
}

// Not torch's own functions for these: they do not say why they failed (out of memory).
inline Tensor empty(const Tensor& like, std::vector<int64_t> size, ScalarType dtype) {
  return call("aten::new_empty", "", like, size, std::optional(dtype), std::nullopt, std::nullopt, std::nullopt);
}
inline Tensor new_like(const Tensor& t) {
  return call("aten::empty_like", "", t, std::nullopt, std::nullopt, std::nullopt, std::nullopt, std::nullopt);
}
inline Tensor dense(const Tensor& t, torch::headeronly::MemoryFormat order = torch::headeronly::MemoryFormat::Contiguous) {
  return call("aten::contiguous", "", t, order);
}

// The (0,) tensor that stands for an output nobody asked for.
inline Tensor nothing(const Tensor& like) { return empty(like, {0}, like.scalar_type()); }

// Same strides, dimensions of one element aside: these have no say in where elements lie.
inline bool same_memory_order(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); d++) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// t, in the memory order of `like`, a dense tensor of the same shape; copied only where it has another.
inline Tensor in_memory_order_of(const Tensor& t, const Tensor& like) {
  if (same_memory_order(t, like) || t.numel() == 0) return t;
  Tensor copy = new_like(like);
  return torch::stable::copy_(copy, t);
}

}  // namespace fastgan::ops
