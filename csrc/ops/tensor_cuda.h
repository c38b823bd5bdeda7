// From tensors to what CUDA kernels take: the device and its current stream, element types, memory orders, workspaces.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/dtype.h"
#include "cuda/image.h"
#include "ops/stable.h"
#include "ops/tensor_cpu.h"

// Weak, so that a build with CUDA kernels still loads under a torch without CUDA, where no CUDA op can be called.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace fastgan::ops {

inline void check_on_cuda(const char* op, const char* argument, const Tensor& t) {
  check(t.is_cuda(), op, ": ", argument, " is on another device; the CUDA kernels take all tensors on one CUDA device");
}

// Makes t's device current while it lives; `stream` is that device's current stream.
class CudaScope {
 public:
  CudaScope(const char* op, const char* argument, const Tensor& t)
      : guard_((check_on_cuda(op, argument, t), t.get_device_index())) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

inline void check_launch(const char* op, cudaError_t status) {
  check(status == cudaSuccess, op, ": the CUDA launch failed: ", cudaGetErrorString(status));
}

inline cuda::DType cuda_dtype(const char* op, const char* argument, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return cuda::DType::Float32;
    case ScalarType::BFloat16: return cuda::DType::BFloat16;
    case ScalarType::Half: return cuda::DType::Float16;
    default: break;
  }
  check(false, op, ": ", argument, " is ", dtype_name(t.scalar_type()),
        "; the CUDA kernels take float32, bfloat16 and float16, all else runs by the reference");
  return cuda::DType::Float32;
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

inline void check_same_kind(const char* op, const char* argument, const Tensor& t, const char* model, const Tensor& like) {
  bool same = t.dim() == like.dim() && t.scalar_type() == like.scalar_type() && same_device(t, like);
  for (int64_t d = 0; same && d < like.dim(); d++) same = t.size(d) == like.size(d);
  check(same, op, ": ", argument, " is ", dtype_name(t.scalar_type()), " ", shape_of(t), "; it takes ", model, "'s ",
        dtype_name(like.scalar_type()), " ", shape_of(like), " on the same device");
}

// t with the elements of each sample together and samples one after the other, copied where they are not.
inline Tensor with_adjacent_samples(const Tensor& t) {
  return t.is_contiguous() || (t.dim() >= 2 && is_channels_last(t)) ? t : dense(t);
}

// A (size,) vector of any floating dtype beside `like`.
inline void check_vector(const char* op, const char* argument, const Tensor& t, int64_t size, const Tensor& like) {
  check(t.dim() == 1 && t.size(0) == size, op, ": ", argument, " has shape ", shape_of(t), "; it takes (", size, ",)");
  check(same_device(t, like), op, ": ", argument, " is on another device; the CUDA kernels take all tensors on one");
}

// Elements that a launch addresses by 32 bits.
constexpr int64_t kMaxPerChannel = int64_t{1} << 31, kMaxPerSample = int64_t{1} << 30;

inline void check_below(const char* op, const char* what, int64_t elements, int64_t limit) {
  check(elements < limit, op, ": ", what, " is ", elements, " elements; the CUDA kernels take less than ", limit);
}

inline Tensor workspace(const Tensor& like, int64_t bytes) { return empty(like, {(bytes + 3) / 4}, ScalarType::Float); }

}  // namespace fastgan::ops
