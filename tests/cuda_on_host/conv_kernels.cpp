// The convolutions of csrc/cuda compiled for the executor, as kernels.cpp does the others: a unit of its own, because they
// take long to compile.
#define FASTGAN_CONV_BLOCKS 8  // so that small images take tiles of every size
#include "conv_gemm.cu"
#include "conv_gemm_weight_grad.cu"

#include "kernel_calls.h"

extern "C" {

const char* run_conv_gemm(ConvGemmParams p) {
  auto memory = workspace(conv_gemm_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return conv_gemm(p, nullptr); });
}
const char* run_conv_gemm_weight_grad(ConvWeightGradParams p) {
  auto memory = workspace(conv_gemm_weight_grad_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return conv_gemm_weight_grad(p, nullptr); });
}

bool covers_conv_gemm(ConvGemmParams p) { return conv_gemm_covers(p); }
bool covers_conv_gemm_weight_grad(ConvWeightGradParams p) { return conv_gemm_weight_grad_covers(p); }

void set_resident_blocks(unsigned blocks) { cuda_on_host::options.resident_blocks = blocks; }

// How a call is cut: rows and columns of a tile, splits of K.
void plan_of_conv_gemm(ConvGemmParams p, int* plan) {
  const ConvGemmPlan found = plan_conv_gemm(p);
  plan[0] = found.tile_m, plan[1] = found.tile_n, plan[2] = found.args.splits;
}
void plan_of_conv_gemm_weight_grad(ConvWeightGradParams p, int* plan) {
  const WeightGradPlan found = plan_weight_grad(p);
  plan[0] = plan[1] = found.tile, plan[2] = found.args.splits;
}

}  // extern "C"
