// csrc/cuda, but for the convolutions (conv_kernels.cpp), compiled for the executor, behind plain C functions that test_kernels.py calls through ctypes. Each function
// takes pointers to host memory, allocates the workspace, and returns null or the text of the error.
#define FASTGAN_CHANNEL_BLOCKS 40  // so that small tensors fill blocks with several tiles, and more than a warp of splits
#include "bn_act.cu"
#include "bn_act_backward.cu"
#include "bn_stats.cu"
#include "clip_weights.cu"
#include "interpolate.cu"
#include "leaky_mask_mul.cu"
#include "penalty.cu"
#include "rmsprop_clip.cu"

#include "conv_gemm.h"
#include "kernel_calls.h"

extern "C" {

// The layout of each struct as ctypes must declare it: a mismatch is found before a kernel runs.
int64_t size_of_params(int which) {
  const int64_t sizes[] = {sizeof(BnStatsParams),           sizeof(BnActParams),       sizeof(BnActBackwardReduceParams),
                           sizeof(BnActBackwardElemtParams), sizeof(ClipWeightsParams), sizeof(RmspropClipParams),
                           sizeof(InterpolateParams),        sizeof(PenaltyParams),     sizeof(LeakyMaskMulParams),
                           sizeof(InverseStdParams),         sizeof(ConvGemmParams),    sizeof(ConvWeightGradParams),
                           sizeof(ConvGemmParams),          sizeof(ConvWeightGradParams), sizeof(RunningStatsParams)};
  return sizes[which];
}

void set_order(int order, uint64_t seed, int landing) {
  cuda_on_host::options.order = static_cast<cuda_on_host::Order>(order);
  cuda_on_host::options.landing = static_cast<cuda_on_host::Landing>(landing);
  cuda_on_host::options.seed = seed;
}

const char* run_bn_stats(BnStatsParams p) {
  auto memory = workspace(bn_stats_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return bn_stats(p, nullptr); });
}
const char* run_inverse_std(InverseStdParams p) {
  return guarded([&] { return inverse_std(p, nullptr); });
}
const char* run_running_stats(RunningStatsParams p) {
  return guarded([&] { return running_stats(p, nullptr); });
}
const char* run_bn_act(BnActParams p) {
  return guarded([&] { return bn_act(p, nullptr); });
}
const char* run_bn_act_backward_reduce(BnActBackwardReduceParams p) {
  auto memory = workspace(bn_act_backward_reduce_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return bn_act_backward_reduce(p, nullptr); });
}
const char* run_bn_act_backward_elemt(BnActBackwardElemtParams p) {
  return guarded([&] { return bn_act_backward_elemt(p, nullptr); });
}
const char* run_clip_weights(ClipWeightsParams p) {
  return guarded([&] { return clip_weights(p, nullptr); });
}
const char* run_rmsprop_clip(RmspropClipParams p) {
  return guarded([&] { return rmsprop_clip(p, nullptr); });
}
const char* run_interpolate(InterpolateParams p) {
  return guarded([&] { return interpolate(p, nullptr); });
}
const char* run_penalty(PenaltyParams p) {
  auto memory = workspace(penalty_workspace(p));
  p.workspace = static_cast<float*>(memory.get());
  return guarded([&] { return penalty(p, nullptr); });
}
const char* run_leaky_mask_mul(LeakyMaskMulParams p) {
  return guarded([&] { return leaky_mask_mul(p, nullptr); });
}

}  // extern "C"
