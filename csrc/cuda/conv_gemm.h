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
// All images are channels_last. Sums are float. Float32 with `tf32` set: operands are rounded to 10 bits of mantissa (to
// nearest, ties away) and multiplied by the tensor cores; without it products are those of float.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "bn_act.h"

namespace fastgan::cuda {

constexpr int kMaxTaps = 49, kMaxPhases = 16, kMaxPadding = 64;
constexpr int64_t kMaxImageElements = (int64_t{1} << 31) - 4096;  // so that pixels of the last tile fit 32 bits, too

struct ConvShape {
  int64_t samples;                             // N > 0
  int64_t coarse_h, coarse_w, coarse_channels;  // > 0; an image has at most kMaxImageElements
  int64_t fine_h, fine_w, fine_channels;
  int kernel_h, kernel_w;    // kernel_h * kernel_w <= kMaxTaps
  int stride_h, stride_w;    // stride_h * stride_w <= kMaxPhases
  int padding_h, padding_w;  // at most kMaxPadding

  bool fits() const {
    const auto image_fits = [this](int64_t h, int64_t w, int64_t channels) {
      if (h <= 0 || w <= 0 || channels <= 0) return false;
      return h <= kMaxImageElements && w <= kMaxImageElements / h && channels <= kMaxImageElements / (h * w) &&
             samples <= kMaxImageElements / (h * w * channels);
    };
    const auto within = [](int h, int w, int most) { return h > 0 && w > 0 && h <= most && w <= most && h * w <= most; };
    return samples > 0 && image_fits(coarse_h, coarse_w, coarse_channels) && image_fits(fine_h, fine_w, fine_channels) &&
           within(kernel_h, kernel_w, kMaxTaps) && within(stride_h, stride_w, kMaxPhases) && padding_h >= 0 &&
           padding_w >= 0 && padding_h <= kMaxPadding && padding_w <= kMaxPadding;
  }
};

enum class ConvDirection : int { Up, Down };

enum class ConvEpilogue : int {
  Store,       // out = z, the product plus bias
  Statistics,  // out = z; mean, var and invstd of every channel of z as stored
  Normalise,   // out = activation((z - mean) * gamma * invstd + beta)
  BatchNorm,   // mean, var and invstd of z as stored, then out as Normalise has it of z as stored, all in one launch
};

struct ConvGemmParams {
  ConvShape shape;
  ConvDirection direction;
  DType dtype;           // of x, weight, bias, out and z
  bool tf32;             // Float32: operands rounded to tf32; else products and sums are those of float
  const void* x;         // Up: coarse, Down: fine
  const void* weight;    // (coarse_channels, fine_channels, kernel_h, kernel_w) in weight_layout
  Layout weight_layout;  // ChannelsLast: the memory order is (coarse_channels, kernel_h, kernel_w, fine_channels)
  const void* bias;      // (channels of out,), or null
  void* out;             // Up: fine, Down: coarse
  void* z;               // like out: written by BatchNorm, or null
  ConvEpilogue epilogue;
  float* mean;           // (channels of out,): written by Statistics and BatchNorm
  float* var;            // (channels of out,) biased variance: likewise
  float* invstd;         // (channels of out,) 1 / sqrt(var + eps), or null: likewise
  float eps;             // of invstd
  BnChannels channels;   // read by Normalise; BatchNorm reads gamma and beta alone
  Activation activation;
  float negative_slope;  // of LeakyRelu
  void* workspace;       // conv_gemm_workspace() bytes, 16-byte aligned; nothing in it survives
};

bool conv_gemm_covers(const ConvGemmParams& p);  // of the other two, true is assumed
int64_t conv_gemm_workspace(const ConvGemmParams& p);
cudaError_t conv_gemm(const ConvGemmParams& p, cudaStream_t stream);

struct ConvWeightGradParams {
  ConvShape shape;
  DType dtype;           // of both images and of grad_weight
  bool tf32;             // as in ConvGemmParams
  const void* coarse;    // (N, coarse_h, coarse_w, coarse_channels)
  const void* fine;      // (N, fine_h, fine_w, fine_channels)
  void* grad_weight;     // (coarse_channels, fine_channels, kernel_h, kernel_w) in weight_layout
  Layout weight_layout;
  void* workspace;       // conv_gemm_weight_grad_workspace() bytes, 16-byte aligned; nothing in it survives
};

bool conv_gemm_weight_grad_covers(const ConvWeightGradParams& p);
int64_t conv_gemm_weight_grad_workspace(const ConvWeightGradParams& p);
cudaError_t conv_gemm_weight_grad(const ConvWeightGradParams& p, cudaStream_t stream);

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
