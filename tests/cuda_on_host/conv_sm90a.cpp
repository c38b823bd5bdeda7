// csrc/cuda/conv_gemm*_sm90a.cu compiled for the executor, as conv_kernels.cpp does the kernels for sm_80.
#if !defined(FASTGAN_CONV_BLOCKS)  // sweep_conv.cpp has conv_kernels.cpp's
#define FASTGAN_CONV_BLOCKS 8  // so that small images take every tile and blocks take several in turn
#endif
#include "bn_stats.cu"         // the statistics of a split convolution
#include "conv_gemm_sm90a.cu"
#include "conv_gemm_weight_grad_sm90a.cu"

#include "kernel_calls.h"

extern "C" {

void set_options(int order, int landing) {
  cuda_on_host::options.order = static_cast<cuda_on_host::Order>(order);
  cuda_on_host::options.landing = static_cast<cuda_on_host::Landing>(landing);
}

const char* run_conv_gemm_sm90a(ConvGemmParams p) {
  const auto memory = workspace(conv_gemm_sm90a_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return conv_gemm_sm90a(p, nullptr); });
}
const char* run_conv_gemm_weight_grad_sm90a(ConvWeightGradParams p) {
  const auto memory = workspace(conv_gemm_weight_grad_sm90a_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return conv_gemm_weight_grad_sm90a(p, nullptr); });
}

// How a call is cut: rows and columns of a tile, splits of K.
void plan_of_conv_gemm_sm90a(ConvGemmParams p, int* plan) {
  const ConvSm90aPlan found = plan_conv_gemm_sm90a(p);
  plan[0] = found.rows, plan[1] = found.columns, plan[2] = found.args.splits;
}
void plan_of_conv_gemm_weight_grad_sm90a(ConvWeightGradParams p, int* plan) {
  plan[0] = 128, plan[1] = weight_grad_columns(p), plan[2] = plan_weight_grad_sm90a(p).splits;
}

}  // extern "C"
