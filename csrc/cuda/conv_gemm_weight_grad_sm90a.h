// conv_gemm_weight_grad (conv_gemm.h) for sm_90a: conv_gemm_weight_grad_sm90a.cu. As conv_gemm_sm90a.h has it of
// conv_gemm.
#pragma once

#include "conv_gemm.h"

namespace fastgan::cuda {

// 16-bit elements, images whose pixels are whole chunks of 16 bytes and begin at one, strides up to 8.
bool conv_gemm_weight_grad_sm90a_covers(const ConvWeightGradParams& p);
int64_t conv_gemm_weight_grad_sm90a_workspace(const ConvWeightGradParams& p);
cudaError_t conv_gemm_weight_grad_sm90a(const ConvWeightGradParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
