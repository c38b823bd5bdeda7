// sweep.cpp for the convolutions: ragged and aligned channels, odd sizes, tiles of every size, splits of K;
// fine images of 3 channels by the kernels for those.
#include "conv_kernels.cpp"
#include "conv_sm90a.cpp"
#include "sweep.h"

namespace {

// Kernel 4, stride 2, padding 1; `side` of the fine image.
void convolutions(DType dtype, bool tf32, int64_t n, int64_t coarse, int64_t fine, int64_t side, ConvEpilogue epilogue,
                  int64_t offset) {
  const int64_t half = side / 2;
  const ConvShape shape{n, half, half, coarse, side, side, fine, 4, 4, 2, 2, 1, 1};
  const Buffer small(n * half * half * coarse, dtype, offset), large(n * side * side * fine, dtype, offset);
  const Buffer weight(coarse * fine * 16, dtype, offset), grad(coarse * fine * 16, dtype, offset);
  for (ConvDirection direction : {ConvDirection::Up, ConvDirection::Down}) {
    const bool up = direction == ConvDirection::Up;
    const int64_t channels = up ? fine : coarse;
    const auto vector = [&] { return Buffer(channels, DType::Float32); };
    const Buffer bias(channels, dtype), mean = vector(), var = vector(), invstd = vector(), gamma = vector(), beta = vector();
    const Buffer z(up ? n * side * side * fine : n * half * half * coarse, dtype, offset);
    const Buffer out(up ? n * side * side * fine : n * half * half * coarse, dtype, offset);
    ConvGemmParams p{shape, direction, dtype, tf32, up ? small : large, weight, Layout::ChannelsLast, bias, out, z,
                     epilogue, mean, var, invstd, 1e-5f, {mean, invstd, gamma, beta, DType::Float32},
                     Activation::LeakyRelu, 0.2f, nullptr};
    if (!conv_gemm_covers(p)) p.epilogue = ConvEpilogue::Statistics;
    if (!conv_thin_covers(p)) check("conv_gemm", run_conv_gemm(p));
    else check("conv_thin", run_conv_thin(p));
  }
  const ConvWeightGradParams p{shape, dtype, tf32, small, large, grad, Layout::ChannelsFirst, nullptr};
  if (!conv_thin_weight_grad_covers(p)) check("conv_gemm_weight_grad", run_conv_gemm_weight_grad(p));
  else check("conv_thin_weight_grad", run_conv_thin_weight_grad(p));
}

// The same on sm_90a; `side` of the coarse image, no padding, a stride as large as the kernel.
void convolutions_sm90a(int64_t n, int64_t coarse, int64_t fine, int64_t side, int kernel, ConvEpilogue epilogue) {
  constexpr DType kType = DType::BFloat16;
  const int64_t large_side = side * kernel;
  const ConvShape shape{n, side, side, coarse, large_side, large_side, fine, kernel, kernel, kernel, kernel, 0, 0};
  const Buffer small(n * side * side * coarse, kType), large(n * large_side * large_side * fine, kType);
  const Buffer weight(coarse * fine * kernel * kernel, kType), grad(coarse * fine * kernel * kernel, kType);
  for (ConvDirection direction : {ConvDirection::Up, ConvDirection::Down}) {
    const bool up = direction == ConvDirection::Up;
    const int64_t channels = up ? fine : coarse;
    const auto vector = [&] { return Buffer(channels, DType::Float32); };
    const Buffer bias(channels, kType), mean = vector(), var = vector(), invstd = vector(), gamma = vector(), beta = vector();
    const int64_t elements = up ? n * large_side * large_side * fine : n * side * side * coarse;
    const Buffer z(elements, kType), out(elements, kType);
    const ConvGemmParams p{shape, direction, kType, false, up ? small : large, weight, Layout::ChannelsLast, bias, out, z,
                           epilogue, mean, var, invstd, 1e-5f, {mean, invstd, gamma, beta, DType::Float32},
                           Activation::LeakyRelu, 0.2f, nullptr};
    check("conv_gemm_sm90a", run_conv_gemm_sm90a(p));
  }
  for (Layout layout : {Layout::ChannelsFirst, Layout::ChannelsLast}) {
    check("conv_gemm_weight_grad_sm90a",
          run_conv_gemm_weight_grad_sm90a({shape, kType, false, small, large, grad, layout, nullptr}));
  }
}

}  // namespace

int main() {
  const auto of_math = [](DType dtype, bool tf32) {
    convolutions(dtype, tf32, 1, 5, 7, 5, ConvEpilogue::Statistics, 1);
    if (dtype == DType::Float16) return;  // as BFloat16
    convolutions(dtype, tf32, 1, 72, 8, 4, ConvEpilogue::Normalise, 0);
    if (dtype != DType::Float32 || tf32) {
      convolutions(dtype, tf32, 2, 40, 3, 26, ConvEpilogue::Normalise, 0);
      convolutions(dtype, tf32, 1, 5, 3, 7, ConvEpilogue::Normalise, 1);
    }
    if (dtype == DType::BFloat16) convolutions(dtype, tf32, 2, 8, 72, 18, ConvEpilogue::BatchNorm, 0);
  };
  of_math(DType::Float32, false);
  of_math(DType::Float32, true);
  of_math(DType::BFloat16, false);
  of_math(DType::Float16, false);
  convolutions_sm90a(1, 8, 136, 5, 2, ConvEpilogue::Normalise);
  convolutions_sm90a(1, 600, 8, 3, 1, ConvEpilogue::Statistics);  // Up: splits, and a ring that goes round
  convolutions_sm90a(1, 72, 8, 33, 1, ConvEpilogue::Statistics);  // Down: 256 x 128; the weight gradient: splits
  convolutions_sm90a(1, 16, 72, 9, 1, ConvEpilogue::BatchNorm);
  return report();
}
