// Tensor maps, made on the host: what a tensor copy (ptx_sm90a.cuh) reads, and how it lies in shared memory.
#pragma once

#include "ptx_sm90a.cuh"

#if defined(__CUDACC__)
#include <cudaTypedefs.h>
#endif

namespace fastgan::cuda {

// Dimension 0 is contiguous; elements are of 16 bits. The limits are those of cuTensorMapEncodeTiled.
template <int kRank>
struct BoxedTensor {
  const void* data;            // aligned to 16 bytes
  uint64_t extent[kRank];      // elements
  uint64_t stride[kRank - 1];  // of dimensions 1.., in bytes, multiples of 16
  uint32_t box[kRank];         // elements copied at once, at most 256 / step
  uint32_t step[kRank];        // of the tensor between two of the box: the traversal stride; 1 in dimension 0
  int swizzle;                 // S of ptx_sm90a.cuh; box[0] is S / 2; 16: none
};

// The driver's own function, found at run time: the extension is not linked to libcuda and loads without it.
template <int kRank>
cudaError_t encode_tensor_map(const BoxedTensor<kRank>& tensor, CUtensorMap* map) {
  static_assert(kRank >= 2 && kRank <= 5, "a tensor map has at most 5 dimensions");
  const CUtensorMapSwizzle swizzle = tensor.swizzle == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : tensor.swizzle == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                     : tensor.swizzle == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                            : CU_TENSOR_MAP_SWIZZLE_NONE;
  uint32_t spanned[kRank];  // the driver counts what a box spans
  for (int i = 0; i < kRank; ++i) spanned[i] = tensor.box[i] * tensor.step[i];
#if defined(__CUDACC__)
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
  FASTGAN_RETURN_IF_ERROR(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
#else
  FASTGAN_RETURN_IF_ERROR(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found));
#endif
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  const auto encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
#else
  const auto encode = cuda_on_host::encode_tiled;
#endif
  // The type matters for NaN fills only, which are not used: any of 16 bits will do.
  const CUresult status = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<void*>(tensor.data),
                                 tensor.extent, tensor.stride, spanned, tensor.step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace fastgan::cuda
