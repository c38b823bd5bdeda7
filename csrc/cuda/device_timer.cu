// DeviceTimer: two events around the work, behind a kernel that does nothing for a while.
#include "device_timer.h"

#include "platform.cuh"

namespace fastgan::cuda {
namespace {

constexpr long long kHoldCycles = 2'000'000;  // about a millisecond at 2 GHz

__global__ void hold(long long cycles) {
  const long long began = clock64();
  while (clock64() - began < cycles) {
  }
}

}  // namespace

DeviceTimer::~DeviceTimer() {
  if (began_) cudaEventDestroy(began_);
  if (ended_) cudaEventDestroy(ended_);
}

cudaError_t DeviceTimer::start(cudaStream_t stream) {
  if (!began_) FASTGAN_RETURN_IF_ERROR(cudaEventCreate(&began_));
  if (!ended_) FASTGAN_RETURN_IF_ERROR(cudaEventCreate(&ended_));
  FASTGAN_RETURN_IF_ERROR(launch(hold, dim3(1), dim3(1), stream, kHoldCycles));
  return cudaEventRecord(began_, stream);
}

cudaError_t DeviceTimer::stop(cudaStream_t stream, float* milliseconds) {
  FASTGAN_RETURN_IF_ERROR(cudaEventRecord(ended_, stream));
  FASTGAN_RETURN_IF_ERROR(cudaEventSynchronize(ended_));
  return cudaEventElapsedTime(milliseconds, began_, ended_);
}

}  // namespace fastgan::cuda
