// Small kernels that try the executor itself; test_executor.py calls them.
#include "cuda_on_host.h"

namespace {

std::string message;

template <class... P, class... A>
const char* run(void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared, A... arguments) {
  try {
    cuda_on_host::launch(kernel, grid, threads, shared, arguments...);
    return nullptr;
  } catch (const std::exception& e) {
    message = e.what();
    return message.c_str();
  }
}

__global__ void indices(int* out) {
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] += block * threads + thread;
}

__global__ void shuffles(int* out) {
  const int lane = threadIdx.x;
  out[0 * 32 + lane] = __shfl_down_sync(0xffffffffu, lane, 3);
  out[1 * 32 + lane] = __shfl_up_sync(0xffffffffu, lane, 3);
  out[2 * 32 + lane] = __shfl_xor_sync(0xffffffffu, lane, 5);
  out[3 * 32 + lane] = __shfl_sync(0xffffffffu, lane, lane / 8, 8);
  out[4 * 32 + lane] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
  if (lane < 16) out[5 * 32 + lane] = __shfl_down_sync(0x0000ffffu, lane, 8, 16);
  __syncwarp();
}

__global__ void histogram(int* counts, int* largest) {
  CUDA_ON_HOST_DYNAMIC_SHARED(int, local);
  if (threadIdx.x < 4) local[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(local + threadIdx.x % 4, 1);
  atomicMax(largest, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
  __syncthreads();
  if (threadIdx.x < 4) atomicAdd(counts + threadIdx.x, local[threadIdx.x]);
}

__global__ void reads_before_writing(float* out) {
  CUDA_ON_HOST_SHARED(float, held, 64);
  out[threadIdx.x] = held[threadIdx.x];
  __syncthreads();
  held[threadIdx.x] = 1.f;
}

__global__ void leaves_early(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void barrier_for_some() {
  __shfl_down_sync(0xffffffffu, 1, 1);
  if (threadIdx.x < 8) __shfl_down_sync(0xffffffffu, 1, 1);
  __syncthreads();
}

__global__ void not_in_the_mask() { __shfl_down_sync(0x1u, 1, 1); }

__global__ void too_much_shared() {
  CUDA_ON_HOST_SHARED(float, held, 13000);
  held[threadIdx.x] = 0.f;
}

__global__ void copy_off_its_alignment(float* in) {
  CUDA_ON_HOST_SHARED(float, held, 8);
  cuda_on_host::cp_async_16(held, in + 1);
}

__global__ void arrival_before_initialisation() {
  CUDA_ON_HOST_SHARED(uint64_t, barrier, 1);
  cuda_on_host::mbarrier_arrive(barrier);
}

__global__ void bulk_copy_not_awaited(float* in) {
  CUDA_ON_HOST_SHARED(uint64_t, barrier, 1);
  CUDA_ON_HOST_SHARED(float, held, 8);
  cuda_on_host::mbarrier_init(barrier, 1);
  cuda_on_host::mbarrier_arrive_expect_tx(barrier, 32);
  cuda_on_host::bulk_copy(held, in, 32, barrier);
}

}  // namespace

extern "C" {
void set_order(int order) { cuda_on_host::options.order = static_cast<cuda_on_host::Order>(order); }
const char* run_indices(int* out) { return run(indices, dim3(2, 3, 2), dim3(5, 3, 2), 0, out); }
const char* run_shuffles(int* out) { return run(shuffles, dim3(1), dim3(32), 0, out); }
const char* run_histogram(int* counts, int* largest) {
  return run(histogram, dim3(3), dim3(70), 4 * sizeof(int), counts, largest);
}
const char* run_reads_before_writing(float* out) { return run(reads_before_writing, dim3(2), dim3(64), 0, out); }
const char* run_leaves_early(int* out) { return run(leaves_early, dim3(1), dim3(64), 0, out); }
const char* run_barrier_for_some() { return run(barrier_for_some, dim3(1), dim3(64), 0); }
const char* run_not_in_the_mask() { return run(not_in_the_mask, dim3(1), dim3(32), 0); }
const char* run_too_much_shared() { return run(too_much_shared, dim3(1), dim3(32), 0); }
const char* run_copy_off_its_alignment(float* in) { return run(copy_off_its_alignment, dim3(1), dim3(1), 0, in); }
const char* run_arrival_before_initialisation() { return run(arrival_before_initialisation, dim3(1), dim3(1), 0); }
const char* run_bulk_copy_not_awaited(float* in) { return run(bulk_copy_not_awaited, dim3(1), dim3(1), 0, in); }
const char* run_too_many_threads() { return run(not_in_the_mask, dim3(1), dim3(1025), 0); }
}
