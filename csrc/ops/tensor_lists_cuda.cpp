// clip_weights_ and rmsprop_clip_ on CUDA devices: checks, and the lists as arrays of pointers, one call a dtype.
#include "cuda/clip_weights.h"
#include "cuda/rmsprop_clip.h"
#include "ops/tensor_cuda.h"

namespace fastgan::ops {
namespace {

using Tensors = std::vector<Tensor>;

void check_params(const char* op, const Tensors& params) {
  for (size_t i = 0; i < params.size(); i++) {
    const Tensor& t = params[i];
    cuda_dtype(op, "params", t);
    check(same_device(t, params[0]), op, ": params[", i,
          "] is on another device than params[0]; it takes tensors of one CUDA device");
    int64_t span = t.numel() > 0 ? 1 : 0;
    for (int64_t d = 0; d < t.dim() && span > 0; d++) span += (t.size(d) - 1) * t.stride(d);
    check(span == t.numel(), op, ": params[", i, "] has gaps or overlaps in memory; it takes dense tensors");
  }
}

// One of the lists beside the parameters: as many tensors, each like its parameter; none where it is not used.
void check_companions(const char* op, const char* name, const Tensors& list, bool used, const Tensors& params) {
  const size_t wanted = used ? params.size() : 0;
  check(list.size() == wanted, op, ": ", name, " has ", list.size(), " tensors; it takes ", wanted);
  for (size_t i = 0; i < list.size(); i++) {
    const std::string argument = std::string(name) + "[" + std::to_string(i) + "]";
    check_same_kind(op, argument.c_str(), list[i], ("params[" + std::to_string(i) + "]").c_str(), params[i]);
    check(same_memory_order(list[i], params[i]), op, ": ", argument, " has other strides than params[", i,
          "]; it takes the same ones");
  }
}

// The tensors of `params` that are of one type, by their places in the list.
std::vector<size_t> of_dtype(const Tensors& params, cuda::DType dtype) {
  std::vector<size_t> places;
  for (size_t i = 0; i < params.size(); i++) {
    if (cuda_dtype("", "", params[i]) == dtype) places.push_back(i);
  }
  return places;
}

std::vector<void*> pointers(const Tensors& list, const std::vector<size_t>& places) {
  std::vector<void*> data;
  for (size_t i : places) {
    if (!list.empty()) data.push_back(list[i].mutable_data_ptr());
  }
  return data;
}

std::vector<int64_t> numels(const Tensors& list, const std::vector<size_t>& places) {
  std::vector<int64_t> sizes;
  for (size_t i : places) sizes.push_back(list[i].numel());
  return sizes;
}

constexpr cuda::DType kDTypes[] = {cuda::DType::Float32, cuda::DType::BFloat16, cuda::DType::Float16};

void clip_weights_(const Tensors& params, double clip_value) {
  const char* op = "clip_weights_";
  check(clip_value >= 0, op, ": clip_value is ", clip_value, "; it takes 0 or more");
  if (params.empty()) return;
  check_params(op, params);
  const CudaScope scope(op, "params[0]", params[0]);
  for (const cuda::DType dtype : kDTypes) {
    const std::vector<size_t> places = of_dtype(params, dtype);
    const std::vector<void*> weights = pointers(params, places);
    const std::vector<int64_t> numel = numels(params, places);
    check_launch(op, cuda::clip_weights({weights.data(), numel.data(), int(places.size()), dtype, float(clip_value)},
                                        scope.stream()));
  }
}

void rmsprop_clip_(const Tensors& params, const Tensors& grads, const Tensors& square_avgs, const Tensors& grad_avgs,
                   const Tensors& momentum_buffers, const OptionalTensor& lr_tensor, double lr, double alpha, double eps,
                   double weight_decay, double momentum, bool centered, bool maximize, double clip_value) {
  const char* op = "rmsprop_clip_";
  if (params.empty()) return;
  check_params(op, params);
  check_companions(op, "grads", grads, true, params);
  check_companions(op, "square_avgs", square_avgs, true, params);
  check_companions(op, "grad_avgs", grad_avgs, centered, params);
  check_companions(op, "momentum_buffers", momentum_buffers, momentum > 0, params);
  const CudaScope scope(op, "params[0]", params[0]);
  OptionalTensor device_lr;  // on the device a learning rate is not read here: a captured graph follows its changes
  if (lr_tensor.has_value() && lr_tensor->is_cuda()) {
    check(lr_tensor->numel() == 1 && same_device(*lr_tensor, params[0]), op, ": lr_tensor has shape ", shape_of(*lr_tensor),
          "; it takes one number, on the CPU or on the device of params[0]");
    device_lr = torch::stable::to(*lr_tensor, ScalarType::Float);
  } else if (lr_tensor.has_value()) {
    lr = number_in(op, "lr_tensor", *lr_tensor);
  }
  for (const cuda::DType dtype : kDTypes) {
    const std::vector<size_t> places = of_dtype(params, dtype);
    const std::vector<void*> w = pointers(params, places), g = pointers(grads, places), s = pointers(square_avgs, places),
                             m = pointers(grad_avgs, places), b = pointers(momentum_buffers, places);
    const std::vector<int64_t> numel = numels(params, places);
    check_launch(op, cuda::rmsprop_clip({w.data(), g.data(), s.data(), centered ? m.data() : nullptr,
                                         momentum > 0 ? b.data() : nullptr, numel.data(), int(places.size()), dtype,
                                         device_lr.has_value() ? device_lr->const_data_ptr<float>() : nullptr, lr, alpha,
                                         eps, weight_decay, momentum, maximize, clip_value},
                                        scope.stream()));
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("clip_weights_", TORCH_BOX(&clip_weights_));
  m.impl("rmsprop_clip_", TORCH_BOX(&rmsprop_clip_));
}

}  // namespace fastgan::ops
