// Between the two dense memory formats float32 images are turned over by a kernel; all else is ATen's copy.
#include "ops/layout_cpu.h"

#include "cpu/transpose.h"
#include "ops/pooled_tensor.h"
#include "ops/tensor_cpu.h"

namespace fastgan::ops {

Tensor in_format_cpu(const Tensor& t, bool channels_last) {
  const bool last = is_channels_last(t), first = t.is_contiguous();
  if (channels_last ? last : first) return t;
  const bool dense = channels_last ? first : last;
  if (!dense || t.scalar_type() != ScalarType::Float) return in_format(t, channels_last);
  Tensor out = pooled_in_format(t, {t.size(0), t.size(1), t.size(2), t.size(3)}, t.scalar_type(), channels_last);
  const int64_t channels = t.size(1), pixels = t.size(2) * t.size(3);
  const cpu::TransposeParams params{cpu::DType::Float32,
                                    t.size(0),
                                    channels_last ? channels : pixels,
                                    channels_last ? pixels : channels,
                                    t.const_data_ptr<float>(),
                                    out.mutable_data_ptr<float>()};
  parallel(params.units(), t.numel(), [&](int64_t begin, int64_t end) { cpu::transpose_matrices(params, begin, end); });
  return out;
}

}  // namespace fastgan::ops
