// conv_gemm (conv_gemm.h) for sm_90a: conv_gemm_sm90a.cu. The functions exist wherever the extension has CUDA; the
// kernel runs on devices of compute capability 9.0 alone, elsewhere launching it is an error.
#pragma once

#include "conv_gemm.h"

namespace fastgan::cuda {

// Which calls the kernel takes: 16-bit elements, images and weight whose pixels are whole chunks of 16 bytes, kernels
// at least as large as their stride; no tanh, whose code once a sum would be too long; BatchNorm where every tile of at
// most 256 x 128 has a multiprocessor.
bool conv_gemm_sm90a_covers(const ConvGemmParams& p);
int64_t conv_gemm_sm90a_workspace(const ConvGemmParams& p);
cudaError_t conv_gemm_sm90a(const ConvGemmParams& p, cudaStream_t stream);

}  // namespace fastgan::cuda
