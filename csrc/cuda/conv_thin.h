// conv_thin and conv_thin_weight_grad: the products of conv_gemm.h where the fine image has 1 to 4 channels, bound by
// memory. Description: conv_thin.cu.
#pragma once

#include "conv_gemm.h"

namespace fastgan::cuda {

constexpr int kThinChannels = 4;    // of the fine image, at most
constexpr int kThinKernel = 7;      // a side of the kernel, at most
constexpr int kThinColumns = 128;   // kernel_h * kernel_w * fine_channels, at most
constexpr int kThinUpChannels = 512;  // of the coarse image, at most, in the direction Up

inline int64_t thin_columns(const ConvShape& s) { return s.fine_channels * s.kernel_h * s.kernel_w; }

inline bool thin_covers(const ConvShape& s, DType dtype, bool tf32) {
  return s.fits() && s.fine_channels <= kThinChannels && s.kernel_h <= kThinKernel && s.kernel_w <= kThinKernel &&
         thin_columns(s) <= kThinColumns && (dtype != DType::Float32 || tf32);
}

bool conv_thin_covers(const ConvGemmParams& p);  // of the other two, true is assumed
int64_t conv_thin_workspace(const ConvGemmParams& p);
cudaError_t conv_thin(const ConvGemmParams& p, cudaStream_t stream);

bool conv_thin_weight_grad_covers(const ConvWeightGradParams& p);
int64_t conv_thin_weight_grad_workspace(const ConvWeightGradParams& p);
cudaError_t conv_thin_weight_grad(const ConvWeightGradParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
