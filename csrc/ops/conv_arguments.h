// The geometry of a convolution or transposed convolution: its checks, and ATen's implementation.
#pragma once

#include <algorithm>

#include "ops/stable.h"

namespace fastgan::ops {

struct ConvArguments {
  const char* op;
  bool transposed;
  std::vector<int64_t> stride, padding, output_padding, dilation;
  int64_t groups;
  bool tf32 = false;  // float32 may be rounded to TF32, on CUDA devices

  int64_t out_channels(const Tensor& weight) const { return transposed ? weight.size(1) * groups : weight.size(0); }

  Tensor convolve(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) const {
    return call("aten::convolution", "", x, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
  }

  // (grad_x, grad_weight, grad_bias), undefined where not asked for; of the weight in its own memory format.
  std::array<Tensor, 3> backward(const Tensor& grad_z, const Tensor& x, const Tensor& weight, bool need_x,
                                 bool need_weight, bool need_bias) const {
    const std::optional<std::vector<int64_t>> bias_size = std::vector<int64_t>{out_channels(weight)};
    const std::array<bool, 3> wanted{need_x, need_weight, need_bias};
    std::array<Tensor, 3> gradients =
        call<3>("aten::convolution_backward", "", grad_z, x, weight, bias_size, stride, padding, dilation, transposed,
                   output_padding, groups, torch::headeronly::HeaderOnlyArrayRef<bool>(wanted.data(), wanted.size()));
    if (need_weight) gradients[1] = in_memory_order_of(gradients[1], weight);
    return gradients;
  }

  // Checks all that the convolution takes; the shape of its output.
  std::vector<int64_t> check_tensors(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) const {
    check(x.dim() == 4, op, ": x has shape ", shape_of(x), "; it takes (N, C, H, W)");
    check(weight.dim() == 4, op, ": weight has shape ", shape_of(weight), "; it takes four dimensions");
    check(groups >= 1, op, ": groups is ", groups, "; it takes 1 or more");
    check(weight.scalar_type() == x.scalar_type(), op, ": weight is ", dtype_name(weight.scalar_type()), ", x is ",
          dtype_name(x.scalar_type()), "; they take one dtype");
    const int64_t in = transposed ? weight.size(0) : weight.size(1) * groups;
    check(x.size(1) == in, op, ": x has ", x.size(1), " channels; weight of shape ", shape_of(weight), " with groups ",
          groups, " takes ", in);
    check(weight.size(0) % groups == 0, op, ": weight has shape ", shape_of(weight), "; groups ", groups,
          " takes a first dimension that it divides");
    check_channels("bias", bias, out_channels(weight));
    return {x.size(0), out_channels(weight), out_size(x, weight, 0), out_size(x, weight, 1)};
  }

  // Height (d = 0) or width (d = 1) of the output. ATen finds these faults too, but its message does not survive the stable
  // ABI of every torch.
  int64_t out_size(const Tensor& x, const Tensor& weight, int64_t d) const {
    const auto two = [&](const char* argument, const std::vector<int64_t>& values, int64_t least) {
      check(values.size() == 2, op, ": ", argument, " has ", values.size(), " values; it takes two, for height and width");
      for (int64_t v : values) check(v >= least, op, ": ", argument, " is ", v, "; it takes ", least, " or more");
    };
    two("stride", stride, 1);
    two("padding", padding, 0);
    two("dilation", dilation, 1);
    two("output_padding", output_padding, 0);
    const char* side = d == 0 ? "height" : "width";
    const int64_t in = x.size(d + 2), kernel = dilation[d] * (weight.size(d + 2) - 1) + 1;
    check(in > 0 && weight.size(d + 2) > 0, op, ": x has shape ", shape_of(x), ", weight ", shape_of(weight),
          "; they take a ", side, " of 1 or more");
    if (!transposed) {
      const int64_t padded = in + 2 * padding[d];
      check(padded >= kernel, op, ": x has ", side, " ", in, ", padded ", padded, "; a kernel that spans ", kernel,
            " takes that or more");
      return (padded - kernel) / stride[d] + 1;
    }
    check(output_padding[d] < std::max(stride[d], dilation[d]), op, ": output_padding is ", output_padding[d],
          "; it takes less than stride ", stride[d], " or dilation ", dilation[d]);
    const int64_t out = (in - 1) * stride[d] - 2 * padding[d] + kernel + output_padding[d];
    check(out > 0, op, ": x has ", side, " ", in, ", of which padding ", padding[d], " leaves nothing");
    return out;
  }

  void check_shape(const char* argument, const Tensor& t, const Tensor& x, const std::vector<int64_t>& wanted) const {
    bool same = t.dim() == int64_t(wanted.size()) && t.scalar_type() == x.scalar_type();
    for (int64_t d = 0; same && d < t.dim(); d++) same = t.size(d) == wanted[d];
    check(same, op, ": ", argument, " is ", dtype_name(t.scalar_type()), " ", shape_of(t), "; it takes ",
          dtype_name(x.scalar_type()), " (", wanted[0], ", ", wanted[1], ", ", wanted[2], ", ", wanted[3], ")");
  }

  void check_channels(const char* argument, const OptionalTensor& t, int64_t channels) const {
    check(!t.has_value() || (t->dim() == 1 && t->size(0) == channels), op, ": ", argument, " has shape ",
          t.has_value() ? shape_of(*t) : "", "; it takes (", channels, ",)");
  }
};

}  // namespace fastgan::ops
