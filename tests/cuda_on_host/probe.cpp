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

__global__ void syncs_a_grid() { cuda_on_host::grid_sync(); }

// in (4, 8, 8), out (32, 4) registers.
template <bool kTransposed>
__global__ void loads_matrices(const uint16_t* in, uint32_t* out) {
  CUDA_ON_HOST_SHARED(uint16_t, held, 4 * 64);
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) held[lane * 8 + i] = in[lane * 8 + i];
  __syncthreads();
  uint32_t r[4];
  cuda_on_host::load_matrices<kTransposed>(r, held + lane * 8, cuda_on_host::Where::current());
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = r[i];
}

// Registers by lane: a (32, 4), b (32, 2), d (32, 4).
template <void (*kMultiply)(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2], cuda_on_host::Where)>
__global__ void multiplies(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  uint32_t of_a[4], of_b[2];
  float of_d[4];
  for (int i = 0; i < 4; ++i) of_a[i] = a[lane * 4 + i], of_d[i] = d[lane * 4 + i];
  for (int i = 0; i < 2; ++i) of_b[i] = b[lane * 2 + i];
  kMultiply(of_d, of_a, of_b, cuda_on_host::Where::current());
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = of_d[i];
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
const char* run_grid_sync_alone() { return run(syncs_a_grid, dim3(2), dim3(32), 0); }
const char* run_too_many_together() {
  const auto blocks = dim3(cuda_on_host::options.resident_blocks + 1);
  const bool refused = cuda_on_host::launch_cooperative(syncs_a_grid, blocks, dim3(1), 0) == cudaErrorCooperativeLaunchTooLarge;
  return refused ? "refused" : nullptr;
}
const char* run_ldmatrix(uint16_t* in, uint32_t* out) { return run(loads_matrices<false>, dim3(1), dim3(32), 0, in, out); }
const char* run_ldmatrix_trans(uint16_t* in, uint32_t* out) {
  return run(loads_matrices<true>, dim3(1), dim3(32), 0, in, out);
}
const char* run_mma_bfloat16(uint32_t* a, uint32_t* b, float* d) {
  return run(multiplies<cuda_on_host::mma_m16n8k16_bf16>, dim3(1), dim3(32), 0, a, b, d);
}
const char* run_mma_float16(uint32_t* a, uint32_t* b, float* d) {
  return run(multiplies<cuda_on_host::mma_m16n8k16_fp16>, dim3(1), dim3(32), 0, a, b, d);
}
const char* run_mma_tf32(uint32_t* a, uint32_t* b, float* d) {
  return run(multiplies<cuda_on_host::mma_m16n8k8_tf32>, dim3(1), dim3(32), 0, a, b, d);
}
}
