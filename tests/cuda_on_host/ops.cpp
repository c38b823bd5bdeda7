// The CUDA half of csrc/ops over the executor, registered for CPU tensors in a namespace of its own: what the extension does
// between torch and the kernels (checks, memory orders, workspaces) runs in the tests too. test_ops.py defines the schemas.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace torch::stable::accelerator {
struct HostGuard {
  explicit HostGuard(int) {}
};
}  // namespace torch::stable::accelerator

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
extern "C" const char* cudaGetErrorString(cudaError_t) { return "an error of the executor"; }

// From here on the device is the CPU.
#define DeviceGuard HostGuard
#define is_cuda is_cpu
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(cuda_on_host, CPU, m, C10_UID)

#include "ops/bn_act_cuda.cpp"
#include "ops/conv_bn_act_cuda.cpp"
#include "ops/penalty_cuda.cpp"
#include "ops/tensor_lists_cuda.cpp"
