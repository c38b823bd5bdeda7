// Convolutions by one matrix product: views in the weight's memory order.
#include "ops/matmul_conv_cpu.h"

#include "ops/layout_cpu.h"

namespace fastgan::ops {
namespace {

// t (N, C, H, W) as a matrix (N, C * H * W), its columns in channels-last or contiguous order.
Tensor flattened(const Tensor& t, bool channels_last) {
  const int64_t rows = t.size(0), columns = t.size(1) * t.size(2) * t.size(3);
  return restrided(in_format_cpu(t, channels_last), {rows, columns}, {columns, 1});
}

// The inverse: a contiguous matrix seen as an image of this shape.
Tensor unflattened(const Tensor& matrix, const std::vector<int64_t>& shape, bool channels_last) {
  return restrided(matrix, shape, strides_in_format(shape, channels_last));
}

std::vector<int64_t> sizes_of(const Tensor& t) { return {t.size(0), t.size(1), t.size(2), t.size(3)}; }

Tensor turned(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

Tensor product(const Tensor& a, const Tensor& b) { return call("aten::mm", "", a, b); }

}  // namespace

Tensor MatmulConv::forward(const ConvArguments& conv, const Tensor& x, const Tensor& weight) {
  const bool order = suggests_channels_last(weight);
  const Tensor w = flattened(weight, order);
  const int64_t channels = conv.out_channels(weight);
  Tensor z;
  if (conv.transposed) {
    z = unflattened(product(flattened(x, false), w), {x.size(0), channels, weight.size(2), weight.size(3)}, order);
  } else {
    z = unflattened(product(flattened(x, order), turned(w)), {x.size(0), channels, 1, 1}, false);
  }
  return result_in_format(z, output_is_channels_last(x, weight));
}

std::array<Tensor, 2> MatmulConv::backward(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x,
                                           const Tensor& weight, bool need_x, bool need_weight) {
  const bool order = suggests_channels_last(weight);
  const Tensor grad = flattened(grad_z, order);
  std::array<Tensor, 2> gradients;
  if (need_x) {
    const Tensor w = flattened(weight, order);
    const Tensor grad_x = unflattened(product(grad, conv.transposed ? turned(w) : w), sizes_of(x), order);
    gradients[0] = result_in_format(grad_x, output_is_channels_last(x, weight));
  }
  if (need_weight) {
    const Tensor flat = flattened(x, order);
    const Tensor grad_weight = conv.transposed ? product(turned(flat), grad) : product(turned(grad), flat);
    gradients[1] = unflattened(grad_weight, sizes_of(weight), order);
  }
  return gradients;
}

}  // namespace fastgan::ops
