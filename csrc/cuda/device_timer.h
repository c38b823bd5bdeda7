// How long work takes on a device, without what the host takes to enqueue it. For the trials that choose among kernels.
#pragma once

#include <cuda_runtime_api.h>

namespace fastgan::cuda {

class DeviceTimer {
 public:
  DeviceTimer() = default;
  ~DeviceTimer();
  DeviceTimer(const DeviceTimer&) = delete;
  DeviceTimer& operator=(const DeviceTimer&) = delete;

  // Holds the stream back for about a millisecond, so that what is enqueued now runs without gaps, and starts the clock behind.
  cudaError_t start(cudaStream_t stream);
  // Waits for all that was enqueued since.
  cudaError_t stop(cudaStream_t stream, float* milliseconds);

 private:
  cudaEvent_t began_ = nullptr, ended_ = nullptr;
};

}  // namespace fastgan::cuda
