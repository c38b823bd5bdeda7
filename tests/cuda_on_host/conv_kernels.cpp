// The convolutions of csrc/cuda compiled for the executor, as kernels.cpp does the others: a unit of its own, because they
// take long to compile.
int conv_blocks = 8;  // so that small images take tiles of every size; 132 on a GPU
#define FASTGAN_CONV_BLOCKS conv_blocks
#include "conv_gemm.cu"
#include "conv_gemm_weight_grad.cu"
#include "conv_thin.cu"
#include "conv_thin_weight_grad.cu"

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

const char* run_conv_thin(ConvGemmParams p) {
  auto memory = workspace(conv_thin_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return conv_thin(p, nullptr); });
}
const char* run_conv_thin_weight_grad(ConvWeightGradParams p) {
  auto memory = workspace(conv_thin_weight_grad_workspace(p));
  p.workspace = memory.get();
  return guarded([&] { return conv_thin_weight_grad(p, nullptr); });
}

bool covers_conv_gemm(ConvGemmParams p) { return conv_gemm_covers(p); }
bool covers_conv_gemm_weight_grad(ConvWeightGradParams p) { return conv_gemm_weight_grad_covers(p); }
bool covers_conv_thin(ConvGemmParams p) { return conv_thin_covers(p); }
bool covers_conv_thin_weight_grad(ConvWeightGradParams p) { return conv_thin_weight_grad_covers(p); }

void set_resident_blocks(unsigned blocks) { cuda_on_host::options.resident_blocks = blocks; }

// How a call is cut: rows and columns of a tile, splits of K; the most steps in K that a block makes; blocks.
void plan_of_conv_gemm(ConvGemmParams p, int* plan) {
  const ConvGemmPlan found = plan_conv_gemm(p);
  const ConvGemmArgs& a = found.args;
  int taps = 0;
  for (int i = 0; i < a.phases.phases; ++i) taps = std::max<int>(taps, a.phases.phase[i].taps);
  plan[0] = found.tile_m, plan[1] = found.tile_n, plan[2] = a.splits;
  plan[3] = static_cast<int>(ceil_div(taps * a.steps_per_tap, a.splits)), plan[4] = static_cast<int>(found.blocks) * a.splits;
}
void plan_of_conv_gemm_weight_grad(ConvWeightGradParams p, int* plan) {
  const WeightGradPlan found = plan_weight_grad(p);
  const WeightGradArgs& a = found.args;
  plan[0] = plan[1] = found.tile, plan[2] = a.splits;
  plan[3] = static_cast<int>(ceil_div(a.steps, a.splits)), plan[4] = static_cast<int>(found.blocks) * a.splits;
}
// Of the thin ones: coarse pixels of a tile, down and across (Up: groups of fine pixels), blocks or splits.
void plan_of_conv_thin(ConvGemmParams p, int* plan) {
  if (p.direction == ConvDirection::Down) {
    const PatchTiles tiles = plan_thin_down(p).tiles;
    plan[0] = tiles.rows, plan[1] = tiles.columns, plan[2] = tiles.tiles();
  } else {
    const ThinUpPlan found = plan_thin_up(p);
    plan[0] = found.args.rows, plan[1] = found.args.row_groups, plan[2] = static_cast<int>(found.blocks);
  }
}
void plan_of_conv_thin_weight_grad(ConvWeightGradParams p, int* plan) {
  const ThinGradArgs found = plan_thin_weight_grad(p);
  plan[0] = found.tiles.rows, plan[1] = found.tiles.columns, plan[2] = found.splits;
}

}  // extern "C"
