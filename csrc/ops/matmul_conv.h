// Convolutions that are one matrix product: from 1x1 to the size of the kernel, and from there to 1x1. The ends of DCGAN.
#pragma once

#include "ops/conv_arguments.h"
#include "ops/memory_format.h"

namespace fastgan::ops {

// With M the flattened sizes (C, kh, kw) of the larger side, in the weight's memory order: transposed y (N, M) =
// x (N, C_in) w (C_in, M); otherwise y (N, C_out) = x (N, M) w (C_out, M)^T. By ATen's matrix product, on any device;
// kInFormat brings tensors into a memory format.
template <Tensor (*kInFormat)(const Tensor&, bool)>
struct MatmulConv {
  // x, weight: four dimensions, of sizes that the convolution takes.
  static bool covers(const ConvArguments& conv, const Tensor& x, const Tensor& weight) {
    bool covered = conv.groups == 1;
    for (int64_t d = 0; d < 2; d++) {
      const bool fits = conv.transposed ? x.size(d + 2) == 1 : x.size(d + 2) == weight.size(d + 2);
      covered = covered && fits && conv.padding[d] == 0 && conv.dilation[d] == 1 && conv.output_padding[d] == 0;
    }
    return covered;
  }

  // Without a bias.
  static Tensor forward(const ConvArguments& conv, const Tensor& x, const Tensor& weight) {
    const bool order = suggests_channels_last(weight);
    const Tensor w = flattened(weight, order);
    const int64_t channels = conv.out_channels(weight);
    Tensor z;
    if (conv.transposed) {
      z = unflattened(product(flattened(x, false), w), {x.size(0), channels, weight.size(2), weight.size(3)}, order);
    } else {
      z = unflattened(product(flattened(x, order), turned(w)), {x.size(0), channels, 1, 1}, false);
    }
    return result(z, output_is_channels_last(x, weight));
  }

  static Tensor grad_x(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x, const Tensor& weight) {
    const bool order = suggests_channels_last(weight);
    const Tensor w = flattened(weight, order), grad = flattened(grad_z, order);
    return result(unflattened(product(grad, conv.transposed ? turned(w) : w), sizes_of(x), order),
                  output_is_channels_last(x, weight));
  }

  static Tensor grad_weight(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x, const Tensor& weight) {
    const bool order = suggests_channels_last(weight);
    const Tensor flat = flattened(x, order), grad = flattened(grad_z, order);
    return unflattened(conv.transposed ? product(turned(flat), grad) : product(turned(grad), flat), sizes_of(weight), order);
  }

 private:
  // t (N, C, H, W) as a matrix (N, C * H * W), its columns in channels-last or contiguous order.
  static Tensor flattened(const Tensor& t, bool channels_last) {
    const int64_t rows = t.size(0), columns = t.size(1) * t.size(2) * t.size(3);
    return restrided(kInFormat(t, channels_last), {rows, columns}, {columns, 1});
  }

  // The inverse: a contiguous matrix seen as an image of this shape.
  static Tensor unflattened(const Tensor& matrix, const std::vector<int64_t>& shape, bool channels_last) {
    return restrided(matrix, shape, strides_in_format(shape, channels_last));
  }

  static Tensor result(const Tensor& t, bool channels_last) {
    return with_strides_of_format(kInFormat(t, channels_last), channels_last);
  }

  static std::vector<int64_t> sizes_of(const Tensor& t) { return {t.size(0), t.size(1), t.size(2), t.size(3)}; }
  static Tensor turned(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }
  static Tensor product(const Tensor& a, const Tensor& b) { return call("aten::mm", "", a, b); }
};

}  // namespace fastgan::ops
