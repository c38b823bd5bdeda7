// Convolutions between two images as matrix products on tensor cores: conv_gemm (forward, and the gradient of the input) and
// conv_gemm_weight_grad. Shared by the kernels for sm_80 (conv_gemm.cu, conv_gemm_weight_grad.cu) and for sm_90a.
//
// One geometry for convolution and transposed convolution. Of the two images of a layer one is `coarse`, (N, h, w, C), one is
// `fine`, (N, H, W, c); the weight is (C, c, kh, kw) in torch's order for both modules (conv: C_out first, coarse is the
// output; transposed conv: C_in first, coarse is the input). Tap (a, b) joins coarse pixel (i, j) and fine pixel
//   (I, J) = (stride_h * i - padding_h + a, stride_w * j - padding_w + b).
//   Down   coarse[n, i, j, C] = sum_{a, b, c} fine[n, I, J, c] * weight[C, c, a, b]      conv forward, transposed conv's grad_x
//   Up     fine[n, I, J, c]   = sum over all (i, j, a, b) that meet (I, J) and C of coarse[n, i, j, C] * weight[C, c, a, b]
//   weight gradient           dweight[C, c, a, b] = sum_{n, i, j} coarse[n, i, j, C] * fine[n, I, J, c]
// where pixels outside an image count as zero.
//
// As matrix products. The pixels of the output with the same (row % S, column % S) form a phase, S = stride for Up, 1 for
// Down; a phase is one product over a list of taps, conv_phases():
//   out[n, S h + py, S w + px, :] = sum over taps (dh, dw, t) of in[n, s h + dh, s w + dw, :] * W[t],   s = stride / S
//   M = pixels of the phase, N = channels of the output, K = taps x channels of the input.
// Kernel 4, stride 2, padding 1: Up is 4 phases of 4 taps, Down 1 phase of 16. Kernel 3, stride 2: phases of 1, 2, 2, 4 taps.
//
// All images are channels_last. Float32 stands for tf32: operands are rounded to 10 bits of mantissa (to nearest, ties away),
// sums are float, as for the 16-bit types.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "bn_act.h"

namespace fastgan::cuda {

struct ConvShape {
  int64_t samples;                             // N > 0
  int64_t coarse_h, coarse_w, coarse_channels;  // > 0; an image has less than 2^31 elements
  int64_t fine_h, fine_w, fine_channels;
  int kernel_h, kernel_w;    // kernel_h * kernel_w <= kMaxTaps
  int stride_h, stride_w;    // stride_h * stride_w <= kMaxPhases
  int padding_h, padding_w;
};

enum class ConvDirection : int { Up, Down };

enum class ConvEpilogue : int {
  Store,       // out = z, the product plus bias
  Statistics,  // out = z; mean, var and invstd of every channel of z as stored
  Normalise,   // out = activation((z - mean) * gamma * invstd + beta)
};

struct ConvGemmParams {
  ConvShape shape;
  ConvDirection direction;
  DType dtype;           // of x, weight, bias and out
  const void* x;         // Up: coarse, Down: fine
  const void* weight;    // (coarse_channels, fine_channels, kernel_h, kernel_w) in weight_layout
  Layout weight_layout;  // ChannelsLast: the memory order is (coarse_channels, kernel_h, kernel_w, fine_channels)
  const void* bias;      // (channels of out,), or null
  void* out;             // Up: fine, Down: coarse
  ConvEpilogue epilogue;
  float* mean;           // (channels of out,): written by Statistics
  float* var;            // (channels of out,) biased variance: written by Statistics
  float* invstd;         // (channels of out,) 1 / sqrt(var + eps), or null: written by Statistics
  float eps;             // of invstd
  BnChannels channels;   // read by Normalise
  Activation activation;
  float negative_slope;  // of LeakyRelu
  void* workspace;       // conv_gemm_workspace() bytes, 16-byte aligned; nothing in it survives
};

int64_t conv_gemm_workspace(const ConvGemmParams& p);
cudaError_t conv_gemm(const ConvGemmParams& p, cudaStream_t stream);

struct ConvWeightGradParams {
  ConvShape shape;
  DType dtype;           // of both images and of grad_weight
  const void* coarse;    // (N, coarse_h, coarse_w, coarse_channels)
  const void* fine;      // (N, fine_h, fine_w, fine_channels)
  void* grad_weight;     // (coarse_channels, fine_channels, kernel_h, kernel_w) in weight_layout
  Layout weight_layout;
  void* workspace;       // conv_gemm_weight_grad_workspace() bytes, 16-byte aligned; nothing in it survives
};

int64_t conv_gemm_weight_grad_workspace(const ConvWeightGradParams& p);
cudaError_t conv_gemm_weight_grad(const ConvWeightGradParams& p, cudaStream_t stream);

constexpr int kMaxTaps = 49, kMaxPhases = 16;

// Input pixel of an output pixel (h, w) of a phase: (step_h * h + dh, step_w * w + dw); t = a * kernel_w + b.
struct ConvTap {
  int8_t dh, dw;
  int16_t t;
};

struct ConvPhase {
  int8_t py, px;               // output pixel (out_step_h * h + py, out_step_w * w + px)
  int16_t first_tap, taps;     // in ConvPhases::tap; none where the kernel is smaller than the stride
  int height, width;           // pixels of this phase in a sample
};

struct ConvPhases {
  int phases, step_h, step_w, out_step_h, out_step_w;
  ConvPhase phase[kMaxPhases];
  ConvTap tap[kMaxTaps];       // phase by phase
};

inline ConvPhases conv_phases(const ConvShape& s, ConvDirection direction) {
  ConvPhases all{};
  const bool up = direction == ConvDirection::Up;
  all.out_step_h = up ? s.stride_h : 1;
  all.out_step_w = up ? s.stride_w : 1;
  all.step_h = up ? 1 : s.stride_h;
  all.step_w = up ? 1 : s.stride_w;
  const int64_t out_h = up ? s.fine_h : s.coarse_h, out_w = up ? s.fine_w : s.coarse_w;
  int taps = 0;
  for (int py = 0; py < all.out_step_h && py < out_h; ++py) {
    for (int px = 0; px < all.out_step_w && px < out_w; ++px) {
      ConvPhase& phase = all.phase[all.phases++];
      phase.py = static_cast<int8_t>(py);
      phase.px = static_cast<int8_t>(px);
      phase.height = static_cast<int>((out_h - py + all.out_step_h - 1) / all.out_step_h);
      phase.width = static_cast<int>((out_w - px + all.out_step_w - 1) / all.out_step_w);
      phase.first_tap = static_cast<int16_t>(taps);
      for (int a = 0; a < s.kernel_h; ++a) {
        for (int b = 0; b < s.kernel_w; ++b) {
          const int y = up ? py + s.padding_h - a : a - s.padding_h, x = up ? px + s.padding_w - b : b - s.padding_w;
          if (y % all.out_step_h != 0 || x % all.out_step_w != 0) continue;
          all.tap[taps++] = {static_cast<int8_t>(y / all.out_step_h), static_cast<int8_t>(x / all.out_step_w),
                             static_cast<int16_t>(a * s.kernel_w + b)};
        }
      }
      phase.taps = static_cast<int16_t>(taps - phase.first_tap);
    }
  }
  return all;
}

}  // namespace fastgan::cuda
