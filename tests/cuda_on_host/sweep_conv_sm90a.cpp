// sweep.cpp for the convolutions of sm_90a: tiles of every size, boxes past every edge, splits of K.
#include "conv_sm90a.cpp"
#include "sweep.h"

namespace {

// `side` of the coarse image; stride and kernel are equal.
void convolutions(int64_t n, int64_t coarse, int64_t fine, int64_t side, int kernel, ConvEpilogue epilogue) {
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
    const Buffer out(up ? n * large_side * large_side * fine : n * side * side * coarse, kType);
    check("conv_gemm", run_conv_gemm({shape, direction, kType, false, up ? small : large, weight, Layout::ChannelsLast, bias,
                                      out, nullptr, epilogue, mean, var, invstd, 1e-5f, {mean, invstd, gamma, beta, DType::Float32},
                                      Activation::LeakyRelu, 0.2f, nullptr}));
  }
  for (Layout layout : {Layout::ChannelsFirst, Layout::ChannelsLast}) {
    check("conv_gemm_weight_grad", run_conv_gemm_weight_grad({shape, kType, false, small, large, grad, layout, nullptr}));
  }
}

}  // namespace

int main() {
  convolutions(1, 8, 136, 5, 2, ConvEpilogue::Normalise);
  convolutions(1, 264, 8, 3, 1, ConvEpilogue::Statistics);  // splits
  convolutions(1, 72, 8, 33, 1, ConvEpilogue::Statistics);  // 256 x 128; the weight gradient splits
  return report();
}
