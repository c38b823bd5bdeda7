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

// What a test decides about the device: its capability, whether its stream is being captured, how long work takes.
namespace {
struct {
  int major = 9, minor = 0;
  bool capturing = false;
  float milliseconds[128] = {1.f};
  int times = 1, next = 0;
} device;
}  // namespace

#define FOR_TESTS extern "C" __attribute__((visibility("default")))
FOR_TESTS void set_device(int major, int minor, bool capturing) {
  device.major = major, device.minor = minor, device.capturing = capturing;
}
// What timings find from now on, over and over.
FOR_TESTS void set_times(const float* milliseconds, int count) {
  device.times = count, device.next = 0;
  for (int i = 0; i < count; ++i) device.milliseconds[i] = milliseconds[i];
}
extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? device.major : device.minor;
  return cudaSuccess;
}
extern "C" cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = device.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

// From here on the device is the CPU.
#define DeviceGuard HostGuard
#define is_cuda is_cpu
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(cuda_on_host, CPU, m, C10_UID)

#include "cuda/device_timer.h"

namespace fastgan::cuda {
DeviceTimer::~DeviceTimer() {}
cudaError_t DeviceTimer::start(cudaStream_t) { return cudaSuccess; }
cudaError_t DeviceTimer::stop(cudaStream_t, float* milliseconds) {
  *milliseconds = device.milliseconds[device.next++ % device.times];
  return cudaSuccess;
}
}  // namespace fastgan::cuda

#include "ops/bn_act_cuda.cpp"
#include "ops/conv_bn_act_cuda.cpp"
#include "ops/conv_choices.cpp"
#include "ops/penalty_cuda.cpp"
#include "ops/tensor_lists_cuda.cpp"

FOR_TESTS void set_conv_choice(const char* word) { fastgan::ops::set_conv_choice(word); }
// The kernel chosen for a key, "" where none was.
FOR_TESTS const char* chosen_conv(const char* key) {
  static std::string kernel;
  kernel = fastgan::ops::chosen_conv(-1, key).value_or("");
  return kernel.c_str();
}
