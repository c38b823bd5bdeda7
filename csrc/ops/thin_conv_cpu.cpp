// The RGB ends of a GAN on the CPU: memory order, packed weights, threads, sums of parts.
#include "ops/thin_conv_cpu.h"

#include "cpu/thin_conv.h"
#include "ops/layout_cpu.h"
#include "ops/pooled_tensor.h"
#include "ops/tensor_cpu.h"

namespace fastgan::ops {
namespace {

constexpr const char* kOp = "thin_conv";

// Where the kernel writes a result; `take` gives it in the memory order that the caller asks for.
struct Result {
  Tensor written;
  bool last;

  Result(const Tensor& like, const std::vector<int64_t>& size, bool last_of)
      : written(pooled_in_format(like, size, like.scalar_type(), true)), last(last_of) {}

  Tensor take() const { return result_in_format(written, last); }
};

cpu::ThinConvShape shape_of_conv(bool transposed, const Tensor& x, const Tensor& weight) {
  const int64_t ratio = transposed ? 1 : 2;
  return {x.size(0), x.size(2) / ratio, x.size(3) / ratio, weight.size(0), weight.size(1)};
}

std::vector<int64_t> small_size(const cpu::ThinConvShape& s) {
  return {s.samples, s.small_channels, s.height, s.width};
}
std::vector<int64_t> large_size(const cpu::ThinConvShape& s) {
  return {s.samples, s.large_channels, 2 * s.height, 2 * s.width};
}

cpu::ThinConvImage image(const Tensor& value) {
  return {value.const_data_ptr(), nullptr, Activation::None, 0};
}

// Calls f(s, c, ky, kx) for all elements of a weight (Cs, Cl, 4, 4).
template <class F>
void for_weight(const cpu::ThinConvShape& shape, const F& f) {
  for (int64_t s = 0; s < shape.small_channels; s++) {
    for (int64_t c = 0; c < shape.large_channels; c++) {
      for (int64_t ky = 0; ky < 4; ky++) {
        for (int64_t kx = 0; kx < 4; kx++) f(s, c, ky, kx);
      }
    }
  }
}

// The weight as the kernel takes it, see ThinConvParams.
std::vector<float> packed_weight(const cpu::ThinConvShape& shape, const Tensor& weight, bool up) {
  const Tensor w = weight.scalar_type() == ScalarType::Float ? weight : torch::stable::to(weight, ScalarType::Float);
  const float* from = w.const_data_ptr<float>();
  const int64_t d0 = w.stride(0), d1 = w.stride(1), d2 = w.stride(2), d3 = w.stride(3);
  const int64_t taps = shape.taps(), large = shape.large_channels, padded = shape.padded_channels();
  std::vector<float> packed(taps * padded);
  for_weight(shape, [&](int64_t s, int64_t c, int64_t ky, int64_t kx) {
    const int64_t at = up ? s * taps + (((kx / 2) * 4 + ky) * 2 + kx % 2) * large + c
                          : ((ky * 4 + kx) * large + c) * padded + s;
    packed[at] = from[s * d0 + c * d1 + ky * d2 + kx * d3];
  });
  return packed;
}

// Sums over the parts, in their order, of (parts, size).
void sum_parts(std::vector<double>& sums, int64_t parts, int64_t size) {
  parallel(size, parts * size, [&](int64_t begin, int64_t end) {
    for (int64_t part = 1; part < parts; part++) {
      for (int64_t i = begin; i < end; i++) sums[i] += sums[part * size + i];
    }
  });
}

Tensor weight_gradient(const cpu::ThinConvShape& shape, const Tensor& weight, const std::vector<double>& sums,
                       bool last) {
  Tensor grad = pooled_in_format(weight, {shape.small_channels, shape.large_channels, 4, 4}, ScalarType::Float, last);
  float* to = grad.mutable_data_ptr<float>();
  const int64_t d0 = grad.stride(0), d1 = grad.stride(1), d2 = grad.stride(2), d3 = grad.stride(3);
  for_weight(shape, [&](int64_t s, int64_t c, int64_t ky, int64_t kx) {
    to[s * d0 + c * d1 + ky * d2 + kx * d3] =
        static_cast<float>(sums[((ky * 4 + kx) * shape.large_channels + c) * shape.padded_channels() + s]);
  });
  return weight.scalar_type() == ScalarType::Float ? grad : torch::stable::to(grad, weight.scalar_type());
}

// Runs the kernel on torch's threads, each with scratch memory of its own.
void run(const cpu::ThinConvParams& params) {
  const cpu::ThinConvShape& s = params.shape;
  const int64_t floats = cpu::ThinConvScratch(s, nullptr).floats, work = s.samples * s.height * s.small_row();
  parallel(params.parts, work, [&](int64_t begin, int64_t end) {
    std::vector<float> memory(floats + 16);
    cpu::ThinConvParams own = params;
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    own.scratch = memory.data() + (64 - address % 64) % 64 / sizeof(float);
    cpu::thin_conv(own, begin, end);
  });
}

}  // namespace

Tensor ThinConv::forward(bool transposed, const Tensor& x_of, const Tensor& weight, const OptionalTensor& bias,
                         Activation activation, double negative_slope) {
  const cpu::ThinConvShape shape = shape_of_conv(transposed, x_of, weight);
  const Tensor x = in_format_cpu(x_of, true);
  Result y(x, transposed ? large_size(shape) : small_size(shape), output_is_channels_last(x_of, weight));
  const std::vector<float> packed = packed_weight(shape, weight, transposed);
  const int64_t channels = transposed ? shape.large_channels : shape.small_channels;
  const std::vector<double> shift = channel_values(kOp, "bias", bias, channels, 0);
  std::vector<float> shifts(transposed ? channels : shape.padded_channels());
  std::copy(shift.begin(), shift.end(), shifts.begin());

  cpu::ThinConvParams params{};
  params.dtype = kernel_dtype(kOp, "x", x);
  params.shape = shape;
  (transposed ? params.small : params.large) = image(x);
  params.up = transposed;
  params.result = y.written.mutable_data_ptr();
  params.weight = packed.data();
  params.bias = shifts.data();
  params.activation = activation;
  params.negative_slope = negative_slope;
  params.parts = shape.rows();
  run(params);
  return y.take();
}

std::array<Tensor, 3> ThinConv::backward(bool transposed, const Tensor& grad_y_of, const Tensor& y_of,
                                         const Tensor& x_of, const Tensor& weight, Activation activation,
                                         double negative_slope, bool need_x, bool need_weight, bool need_bias) {
  const cpu::ThinConvShape shape = shape_of_conv(transposed, x_of, weight);
  const Tensor grad_y = in_format_cpu(grad_y_of, true), y = activation == Activation::None ? grad_y : in_format_cpu(y_of, true);
  const Tensor x = need_weight ? in_format_cpu(x_of, true) : x_of;
  const bool last = output_is_channels_last(x_of, weight);
  const int64_t out_channels = transposed ? shape.large_channels : shape.small_channels;
  const int64_t padded = shape.padded_channels(), channels = transposed ? shape.large_channels : padded;

  cpu::ThinConvParams params{};
  params.dtype = kernel_dtype(kOp, "x", x);
  params.shape = shape;
  (transposed ? params.large : params.small) = {grad_y.const_data_ptr(), y.const_data_ptr(), activation,
                                                negative_slope};
  if (need_weight) (transposed ? params.small : params.large) = image(x);
  params.up = !transposed;
  params.parts = shape.parts();
  params.sum_large = transposed;

  std::array<Tensor, 3> grads;
  std::optional<Result> grad_x;
  std::vector<float> packed;
  const std::vector<float> no_bias(std::max(shape.large_channels, padded));
  std::vector<double> weight_sums, bias_sums;
  params.bias = no_bias.data();
  if (need_x) {
    grad_x.emplace(x, transposed ? small_size(shape) : large_size(shape), last);
    packed = packed_weight(shape, weight, params.up);
    params.result = grad_x->written.mutable_data_ptr();
    params.weight = packed.data();
  }
  if (need_weight) {
    weight_sums.resize(params.parts * shape.taps() * padded);
    params.weight_sums = weight_sums.data();
  }
  if (need_bias) {
    bias_sums.resize(params.parts * channels);
    params.bias_sums = bias_sums.data();
  }
  if (shape.rows() > 0) run(params);
  if (need_x) grads[0] = grad_x->take();
  if (need_weight) {
    sum_parts(weight_sums, params.parts, shape.taps() * padded);
    grads[1] = weight_gradient(shape, weight, weight_sums, suggests_channels_last(weight));
  }
  if (need_bias) {
    sum_parts(bias_sums, params.parts, channels);
    bias_sums.resize(out_channels);
    const Tensor sums = vector_tensor(x, bias_sums, ScalarType::Float);
    grads[2] = x.scalar_type() == ScalarType::Float ? sums : torch::stable::to(sums, x.scalar_type());
  }
  return grads;
}

}  // namespace fastgan::ops
