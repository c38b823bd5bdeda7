// The fused convolutions on CUDA devices: each product by one of this project's kernels, by one matrix product, or by ATen
// (cuDNN) with this project's passes around it; conv_trial_cuda.h chooses.
#include "ops/conv_bn_act.h"

#include "cuda/conv_gemm.h"
#include "cuda/conv_gemm_sm90a.h"
#include "cuda/conv_gemm_weight_grad_sm90a.h"
#include "cuda/conv_thin.h"
#include "ops/bn_act_cuda.h"
#include "ops/channels_cuda.h"
#include "ops/conv_trial_cuda.h"
#include "ops/matmul_conv.h"

namespace fastgan::ops {
namespace {

using cuda::ConvDirection;
using cuda::ConvEpilogue;
using cuda::ConvGemmParams;
using cuda::ConvWeightGradParams;
using Matmul = MatmulConv<in_format>;

// ---- the kernels ----------------------------------------------------------------------------------------------------

// The three functions of a kernel, as conv_gemm.h declares them.
template <class Params>
struct KernelOf {
  bool (*covers)(const Params&);
  int64_t (*workspace)(const Params&);
  cudaError_t (*run)(const Params&, cudaStream_t);
};

struct ConvKernel {
  const char* name;
  const char* in_one_launch;  // the name of its epilogue BatchNorm, null where it has none
  bool (*runs_on)(int major, int minor);
  KernelOf<ConvGemmParams> product;
  KernelOf<ConvWeightGradParams> weight_gradient;
};

bool from_8_0(int major, int) { return major >= 8; }
#if defined(FASTGAN_WITH_SM90A)  // compiled for that architecture alone
bool only_9_0(int major, int minor) { return major == 9 && minor == 0; }
#endif

// In the order of "fixed".
const ConvKernel kKernels[] = {
#if defined(FASTGAN_WITH_SM90A)
    {"sm90a", "sm90a_one_launch", only_9_0,
     {cuda::conv_gemm_sm90a_covers, cuda::conv_gemm_sm90a_workspace, cuda::conv_gemm_sm90a},
     {cuda::conv_gemm_weight_grad_sm90a_covers, cuda::conv_gemm_weight_grad_sm90a_workspace,
      cuda::conv_gemm_weight_grad_sm90a}},
#endif
    {"thin", nullptr, from_8_0,
     {cuda::conv_thin_covers, cuda::conv_thin_workspace, cuda::conv_thin},
     {cuda::conv_thin_weight_grad_covers, cuda::conv_thin_weight_grad_workspace, cuda::conv_thin_weight_grad}},
    {"sm80", "sm80_one_launch", from_8_0,
     {cuda::conv_gemm_covers, cuda::conv_gemm_workspace, cuda::conv_gemm},
     {cuda::conv_gemm_weight_grad_covers, cuda::conv_gemm_weight_grad_workspace, cuda::conv_gemm_weight_grad}},
};

Tensor empty_in_format(const Tensor& like, const std::vector<int64_t>& size, bool channels_last) {
  return call("aten::new_empty_strided", "", like, size, strides_in_format(size, channels_last),
              std::optional(like.scalar_type()), std::nullopt, std::nullopt, std::nullopt);
}

// ---- one call -------------------------------------------------------------------------------------------------------

// The convolution of one call: where it runs, what kernels would be given, and the choice among the ways to compute it.
class CudaCall {
 public:
  CudaCall(const ConvArguments& conv, const Tensor& x, const Tensor& weight)
      : conv_(conv), x_(x), weight_(weight), scope_(conv.op, "x", x), device_(x.get_device_index()) {
    x_size_ = {x.size(0), x.size(1), x.size(2), x.size(3)};
    out_size_ = {x.size(0), conv.out_channels(weight), conv.out_size(x, weight, 0), conv.out_size(x, weight, 1)};
    fits_ = output_is_channels_last(x, weight) && conv.groups == 1 && x.numel() > 0;
    // the kernels' own `covers` is stricter; these are its integers
    for (int64_t d = 0; d < 2; d++) {
      fits_ = fits_ && conv.dilation[d] == 1 && weight.size(d + 2) <= cuda::kMaxTaps && conv.stride[d] <= cuda::kMaxPhases &&
              conv.padding[d] <= cuda::kMaxPadding && std::max(x_size_[d + 2], out_size_[d + 2]) <= cuda::kMaxImageElements;
    }
  }

  // By the choice among add_kernels(kernel, product, candidates) of every kernel that is worth asking, one matrix product where
  // that is enough, and ATen's way.
  template <class Result, class AddKernels, class ByMatmul, class ByAten>
  Result choose(const char* name, AddKernels&& add_kernels, ByMatmul&& by_matmul, ByAten&& by_aten) const {
    const ConvProduct product(device_, key(name));
    ConvCandidates<Result> candidates;
    if (fits_) {
      int major = 0, minor = 0;
      check_launch(conv_.op, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_));
      check_launch(conv_.op, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_));
      for (const ConvKernel& kernel : kKernels) {
        if (kernel.runs_on(major, minor)) add_kernels(kernel, product, candidates);
      }
    }
    if (product.may_be("matmul") && Matmul::covers(conv_, x_, weight_)) candidates.push_back({"matmul", by_matmul});
    candidates.push_back({"aten", by_aten});
    return product.run(conv_.op, scope_.stream(), candidates);
  }

  // An output, by the one epilogue of p.
  template <class ByMatmul, class ByAten>
  Tensor choose_output(const char* name, const ConvGemmParams& p, const OptionalTensor& bias, ByMatmul&& by_matmul,
                       ByAten&& by_aten) const {
    const auto add = [&](const ConvKernel& kernel, const ConvProduct& product, ConvCandidates<Tensor>& candidates) {
      if (!product.may_be(kernel.name) || !kernel.product.covers(p)) return;
      candidates.push_back({kernel.name, [&] { return output(kernel, p, bias); }});
    };
    return choose<Tensor>(name, add, by_matmul, by_aten);
  }

  ConvGemmParams output_params(const OptionalTensor& bias) const {
    ConvGemmParams p = params(conv_.transposed ? ConvDirection::Up : ConvDirection::Down);
    p.x = x_.const_data_ptr();
    p.bias = bias.has_value() ? bias->const_data_ptr() : nullptr;
    return p;
  }

  ConvGemmParams grad_x_params(const Tensor& grad_z) const {
    ConvGemmParams p = params(conv_.transposed ? ConvDirection::Down : ConvDirection::Up);
    p.x = grad_z.const_data_ptr();
    return p;
  }

  ConvWeightGradParams grad_weight_params(const Tensor& grad_z) const {
    ConvWeightGradParams p{};
    p.shape = shape();
    p.dtype = cuda_dtype(conv_.op, "x", x_);
    p.tf32 = conv_.tf32;
    set_images(p, x_, grad_z);
    p.weight_layout = weight_layout();
    return p;
  }

  Tensor output(const ConvKernel& kernel, ConvGemmParams p, const OptionalTensor& bias) const {
    const Tensor dense_bias = bias.has_value() ? dense(*bias) : Tensor();
    if (bias.has_value()) p.bias = dense_bias.const_data_ptr();
    return compute(kernel, p, x_, new_output());
  }

  Tensor grad_x(const ConvKernel& kernel, const ConvGemmParams& p, const Tensor& grad_z) const {
    return compute(kernel, p, grad_z, empty_in_format(x_, x_size_, true));
  }

  Tensor grad_weight(const ConvKernel& kernel, ConvWeightGradParams p, const Tensor& grad_z) const {
    const Tensor x = in_format(x_, true), grad = in_format(grad_z, true);
    set_images(p, x, grad);
    Tensor grad_weight = new_like(ordered_weight());
    p.grad_weight = grad_weight.mutable_data_ptr();
    launch(kernel.weight_gradient, p);
    return in_memory_order_of(grad_weight, weight_);
  }

  Tensor new_output() const { return empty_in_format(x_, out_size_, true); }

 private:
  ConvGemmParams params(ConvDirection direction) const {
    ConvGemmParams p{};
    p.shape = shape();
    p.direction = direction;
    p.dtype = cuda_dtype(conv_.op, "x", x_);
    p.tf32 = conv_.tf32;
    p.weight = weight_.const_data_ptr();
    p.weight_layout = weight_layout();
    p.epilogue = ConvEpilogue::Store;
    return p;
  }

  void set_images(ConvWeightGradParams& p, const Tensor& x, const Tensor& grad_z) const {
    p.coarse = (conv_.transposed ? x : grad_z).const_data_ptr();
    p.fine = (conv_.transposed ? grad_z : x).const_data_ptr();
  }

  cuda::ConvShape shape() const {
    const std::vector<int64_t>&coarse = conv_.transposed ? x_size_ : out_size_, &fine = conv_.transposed ? out_size_ : x_size_;
    const auto narrow = [](int64_t v) { return static_cast<int>(v); };
    cuda::ConvShape s{};
    s.samples = x_size_[0];
    s.coarse_channels = weight_.size(0), s.coarse_h = coarse[2], s.coarse_w = coarse[3];
    s.fine_channels = weight_.size(1), s.fine_h = fine[2], s.fine_w = fine[3];
    s.kernel_h = narrow(weight_.size(2)), s.kernel_w = narrow(weight_.size(3));
    s.stride_h = narrow(conv_.stride[0]), s.stride_w = narrow(conv_.stride[1]);
    s.padding_h = narrow(conv_.padding[0]), s.padding_w = narrow(conv_.padding[1]);
    return s;
  }

  // The weight in one of the two orders that kernels read.
  Tensor ordered_weight() const { return is_channels_last(weight_) ? weight_ : dense(weight_); }
  cuda::Layout weight_layout() const {
    return is_channels_last(weight_) ? cuda::Layout::ChannelsLast : cuda::Layout::ChannelsFirst;
  }

  Tensor compute(const ConvKernel& kernel, ConvGemmParams p, const Tensor& input, Tensor out) const {
    const Tensor image = in_format(input, true), weight = ordered_weight();
    p.x = image.const_data_ptr();
    p.weight = weight.const_data_ptr();
    p.out = out.mutable_data_ptr();
    launch(kernel.product, p);
    return out;
  }

  template <class Params>
  void launch(const KernelOf<Params>& kernel, Params p) const {
    const Tensor memory = workspace(x_, kernel.workspace(p));
    p.workspace = memory.mutable_data_ptr();
    check_launch(conv_.op, kernel.run(p, scope_.stream()));
  }

  // All that the time of a product depends on, in words.
  std::string key(const char* product) const {
    const bool tf32 = conv_.tf32 && x_.scalar_type() == ScalarType::Float;
    const auto by = [](std::initializer_list<int64_t> values) {
      std::string text;
      for (const int64_t v : values) text += (text.empty() ? "" : "x") + std::to_string(v);
      return text;
    };
    const auto tensor = [&](const Tensor& t) {
      const char* order = suggests_channels_last(t) ? " nhwc" : t.is_contiguous() ? " nchw" : " strided";
      return by({t.size(0), t.size(1), t.size(2), t.size(3)}) + order;
    };
    std::string text = conv_.transposed ? "conv_transpose2d " : "conv2d ";
    text += std::string(product) + ", " + (tf32 ? "tf32" : dtype_name(x_.scalar_type()));
    text += ", x " + tensor(x_) + ", weight " + tensor(weight_) + ", stride " + by({conv_.stride[0], conv_.stride[1]});
    text += ", padding " + by({conv_.padding[0], conv_.padding[1]});
    if (conv_.transposed) text += ", output_padding " + by({conv_.output_padding[0], conv_.output_padding[1]});
    if (conv_.dilation[0] * conv_.dilation[1] != 1) text += ", dilation " + by({conv_.dilation[0], conv_.dilation[1]});
    if (conv_.groups != 1) text += ", groups " + std::to_string(conv_.groups);
    return text;
  }

  const ConvArguments& conv_;
  const Tensor &x_, &weight_;
  const CudaScope scope_;
  const int device_;
  std::vector<int64_t> x_size_, out_size_;
  bool fits_;  // kernels may be asked
};

// ---- the convolutions -----------------------------------------------------------------------------------------------

struct CudaConvolution : ComposedConvolution<CudaPasses, CudaConvolution> {
  using Composed = ComposedConvolution<CudaPasses, CudaConvolution>;

  static Tensor convolve(const ConvArguments& conv, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
    return convolve_activate(conv, x, weight, bias, Activation::None, 0.0);
  }

  static Tensor convolve_activate(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                  const OptionalTensor& bias, Activation activation, double negative_slope) {
    const CudaCall call(conv, x, weight);
    ConvGemmParams p = call.output_params(bias);
    if (activation != Activation::None) activate_in_epilogue(p, cuda::BnChannels{}, activation, negative_slope);
    const auto bias_and_activation = [&](Tensor z) {  // in one pass, where torch takes two
      activate_(z, bias, activation, negative_slope);
      return z;
    };
    return call.choose_output(
        activation == Activation::None ? "output" : "activation", p, bias,
        [&] { return bias_and_activation(Matmul::forward(conv, x, weight)); },
        [&] { return bias_and_activation(conv.convolve(x, weight, std::nullopt)); });
  }

  static Normalized convolve_batch_norm(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                        const OptionalTensor& bias, const BatchNormArguments& n) {
    const CudaCall call(conv, x, weight);
    const int64_t channels = conv.out_channels(weight);
    ConvGemmParams statistics = call.output_params(bias);
    statistics.epilogue = ConvEpilogue::Statistics;
    statistics.eps = float(n.eps);
    ConvGemmParams one_launch = statistics;
    activate_in_epilogue(one_launch, cuda::BnChannels{}, n.activation, n.negative_slope);
    one_launch.epilogue = ConvEpilogue::BatchNorm;
    const auto new_statistics = [&](ConvGemmParams& p) {
      std::array<Tensor, 3> s;
      for (Tensor& t : s) t = empty(x, {channels}, ScalarType::Float);
      p.mean = s[0].mutable_data_ptr<float>(), p.invstd = s[1].mutable_data_ptr<float>(), p.var = s[2].mutable_data_ptr<float>();
      return s;
    };
    const auto add = [&](const ConvKernel& kernel, const ConvProduct& product, ConvCandidates<Normalized>& candidates) {
      if (product.may_be(kernel.in_one_launch) && kernel.product.covers(one_launch)) {
        candidates.push_back({kernel.in_one_launch, [&] {
          ConvGemmParams p = one_launch;
          const auto [mean, invstd, var] = new_statistics(p);
          const Channels vectors(conv.op, x, channels, mean, invstd, n.gamma, n.beta);
          p.channels = vectors.pointers();
          Tensor z = n.keep_z ? call.new_output() : nothing(x);
          p.z = n.keep_z ? z.mutable_data_ptr() : nullptr;
          return Normalized{call.output(kernel, p, bias), z, mean, invstd};
        }});
      }
      if (product.may_be(kernel.name) && kernel.product.covers(statistics)) {
        candidates.push_back({kernel.name, [&] {
          ConvGemmParams p = statistics;
          const auto [mean, invstd, var] = new_statistics(p);
          return normalized(call.output(kernel, p, bias), mean, invstd, n);
        }});
      }
    };
    const auto by_matmul = [&] {
      const Tensor z = matmul_plus_bias(conv, x, weight, bias);
      const auto [mean, invstd] = mean_invstd(z, n.eps);
      return normalized(z, mean, invstd, n);
    };
    return call.choose<Normalized>("batch_norm", add, by_matmul,
                                   [&] { return Composed::convolve_batch_norm(conv, x, weight, bias, n); });
  }

  static Tensor convolve_normalize(const ConvArguments& conv, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, const NormalizeArguments& n) {
    const CudaCall call(conv, x, weight);
    const Channels vectors(conv.op, x, conv.out_channels(weight), n.mean, n.invstd, n.gamma, n.beta);
    ConvGemmParams p = call.output_params(bias);
    activate_in_epilogue(p, vectors.pointers(), n.activation, n.negative_slope);
    const auto by_matmul = [&] {
      Tensor z = matmul_plus_bias(conv, x, weight, bias);
      normalize(z, n.mean, n.invstd, n.gamma, n.beta, n.activation, n.negative_slope, z);
      return z;
    };
    return call.choose_output("normalize", p, bias, by_matmul,
                              [&] { return Composed::convolve_normalize(conv, x, weight, bias, n); });
  }

  static Gradients convolve_backward(const ConvArguments& conv, const Tensor& grad_z, const Tensor& x, const Tensor& weight,
                                     const Needs& needs) {
    const CudaCall call(conv, x, weight);
    Gradients gradients;
    if (needs.x) {
      const ConvGemmParams p = call.grad_x_params(grad_z);
      const auto add = [&](const ConvKernel& kernel, const ConvProduct& product, ConvCandidates<Tensor>& candidates) {
        if (!product.may_be(kernel.name) || !kernel.product.covers(p)) return;
        candidates.push_back({kernel.name, [&] { return call.grad_x(kernel, p, grad_z); }});
      };
      gradients[0] = call.choose<Tensor>(
          "input_gradient", add, [&] { return Matmul::grad_x(conv, grad_z, x, weight); },
          [&] { return conv.backward(grad_z, x, weight, true, false, false)[0]; });
    }
    if (needs.weight) {
      const ConvWeightGradParams p = call.grad_weight_params(grad_z);
      const auto add = [&](const ConvKernel& kernel, const ConvProduct& product, ConvCandidates<Tensor>& candidates) {
        if (!product.may_be(kernel.name) || !kernel.weight_gradient.covers(p)) return;
        candidates.push_back({kernel.name, [&] { return call.grad_weight(kernel, p, grad_z); }});
      };
      gradients[1] = call.choose<Tensor>(
          "weight_gradient", add, [&] { return Matmul::grad_weight(conv, grad_z, x, weight); },
          [&] { return conv.backward(grad_z, x, weight, false, true, false)[1]; });
    }
    if (needs.bias) gradients[2] = conv.backward(grad_z, x, weight, false, false, true)[2];
    return gradients;
  }

 private:
  static void activate_in_epilogue(ConvGemmParams& p, const cuda::BnChannels& channels, Activation activation,
                                   double negative_slope) {
    p.epilogue = ConvEpilogue::Normalise;
    p.channels = channels;
    p.activation = activation;
    p.negative_slope = float(negative_slope);
  }

  static Tensor matmul_plus_bias(const ConvArguments& conv, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
    Tensor z = Matmul::forward(conv, x, weight);
    activate_(z, bias, Activation::None, 0.0);
    return z;
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) { register_conv_bn_act<CudaConvolution>(m); }

}  // namespace fastgan::ops
