// From tensors to what CPU kernels take: element type, (N, C, S) view, flat arrays.
#pragma once

#include <algorithm>

#include "cpu/dtype.h"
#include "cpu/image_tiles.h"
#include "ops/stable.h"

namespace fastgan::ops {

inline cpu::DType kernel_dtype(const char* op, const char* argument, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return cpu::DType::Float32;
    case ScalarType::BFloat16: return cpu::DType::BFloat16;
    case ScalarType::Half: return cpu::DType::Float16;
    case ScalarType::Double: return cpu::DType::Float64;
    default: break;
  }
  check(false, op, ": ", argument, " has a dtype the kernels do not take; they take float32, bfloat16, float16 and float64");
  return cpu::DType::Float32;
}

// Runs kernel(begin, end) over [0, units) on torch's threads, `elements` being the work in all: below about 32k elements a
// thread costs more than it saves.
template <class F>
void parallel(int64_t units, int64_t elements, const F& kernel) {
  if (units <= 0) return;
  const int64_t grain = std::max<int64_t>(1, 32768 * units / std::max<int64_t>(elements, 1));
  torch::stable::parallel_for(0, units, grain, kernel);
}

// z as the normalisation kernels see it: z itself where it is contiguous or channels-last, else a contiguous copy.
struct Image {
  Tensor tensor;
  cpu::ImageShape shape;
};

inline bool is_channels_last(const Tensor& t) {
  int64_t stride = t.size(1);
  if (t.size(1) != 1 && t.stride(1) != 1) return false;
  for (int64_t d = t.dim() - 1; d >= 0; d--) {
    if (d == 1) continue;
    if (t.size(d) != 1 && t.stride(d) != stride) return false;
    stride *= t.size(d);
  }
  return true;
}

inline Image image_of(const char* op, const char* argument, const Tensor& t) {
  check(t.dim() >= 2, op, ": ", argument, " has shape ", shape_of(t), "; it takes (N, C, ...)");
  cpu::ImageShape shape{t.size(0), t.size(1), 1, cpu::Layout::ChannelsFirst};
  for (int64_t d = 2; d < t.dim(); d++) shape.pixels *= t.size(d);
  if (t.is_contiguous() && shape.pixels > 1) return {t, shape};
  shape.layout = shape.pixels == 1 || is_channels_last(t) ? cpu::Layout::ChannelsLast : cpu::Layout::ChannelsFirst;
  return {is_channels_last(t) ? t : dense(t), shape};
}

// The values of a (C,) tensor of any floating dtype; `otherwise` C times where there is none.
inline std::vector<double> channel_values(const char* op, const char* argument, const OptionalTensor& t, int64_t channels,
                                          double otherwise) {
  if (!t.has_value()) return std::vector<double>(channels, otherwise);
  check(t->dim() == 1 && t->size(0) == channels, op, ": ", argument, " has shape ", shape_of(*t), "; it takes (", channels,
        ",)");
  std::vector<double> values(channels);
  const auto copy = [&](const auto* from) {
    for (int64_t c = 0; c < channels; c++) values[c] = from[c * t->stride(0)];
  };
  // read where it lies: a call of torch costs more than these few values
  if (t->scalar_type() == ScalarType::Float) {
    copy(t->const_data_ptr<float>());
  } else if (t->scalar_type() == ScalarType::Double) {
    copy(t->const_data_ptr<double>());
  } else {
    const Tensor wide = dense(torch::stable::to(*t, ScalarType::Double));
    const double* from = wide.const_data_ptr<double>();
    std::copy(from, from + channels, values.begin());
  }
  return values;
}

// The value of a tensor of one element on the CPU.
inline double number_in(const char* op, const char* argument, const Tensor& t) {
  check(t.is_cpu() && t.numel() == 1, op, ": ", argument, " has shape ", shape_of(t), t.is_cpu() ? "" : " on another device",
        "; it takes one number, on the CPU or beside the tensors it is for");
  return torch::stable::to(t, ScalarType::Double).const_data_ptr<double>()[0];
}

// A per-channel array of kernels: `period` values of the arithmetic type, entry j for channel j % channels.
class ChannelArray {
 public:
  ChannelArray(const cpu::ImageShape& shape, cpu::DType dtype, const std::vector<double>& values) {
    const int64_t period = cpu::channel_period(shape);
    if (dtype == cpu::DType::Float64) {
      fill(doubles_, values, period);
    } else {
      fill(floats_, values, period);
    }
  }
  const void* data() const {
    return floats_.empty() ? static_cast<const void*>(doubles_.data()) : static_cast<const void*>(floats_.data());
  }

 private:
  template <class T>
  static void fill(std::vector<T>& array, const std::vector<double>& values, int64_t period) {
    array.resize(period);
    for (int64_t j = 0; j < period; j++) array[j] = static_cast<T>(values[j % values.size()]);
  }
  std::vector<float> floats_;
  std::vector<double> doubles_;
};

// A new (size,) tensor of dtype float32 or float64 with these values.
inline Tensor vector_tensor(const Tensor& like, const std::vector<double>& values, ScalarType dtype) {
  Tensor t = empty(like, {static_cast<int64_t>(values.size())}, dtype);
  if (dtype == ScalarType::Double) {
    std::copy(values.begin(), values.end(), t.mutable_data_ptr<double>());
  } else {
    std::transform(values.begin(), values.end(), t.mutable_data_ptr<float>(), [](double v) { return float(v); });
  }
  return t;
}

}  // namespace fastgan::ops
