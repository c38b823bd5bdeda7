// The cost model. Times are in cycles of one core; rates are measured once and hold for machines of the same kind: what
// counts is which of two implementations is the faster, and that they share.
#include "cpu/conv_plan.h"

#include <atomic>

#include "cpu/thin_conv.h"
#include "cpu/winograd.h"

namespace fastgan::cpu {
namespace {

std::atomic<int> forced{-1};

bool both(const int64_t (&values)[2], int64_t wanted) { return values[0] == wanted && values[1] == wanted; }

bool empty(const ConvShape& s) {
  return s.images <= 0 || s.height <= 0 || s.width <= 0 || s.weight[0] <= 0 || s.weight[1] <= 0;
}

// Kernel 4, stride 2, padding 1, one group, an even large side.
bool halves(const ConvShape& s) {
  if (empty(s) || s.weight[2] != 4 || s.weight[3] != 4 || s.groups != 1) return false;
  if (!both(s.stride, 2) || !both(s.padding, 1) || !both(s.dilation, 1) || !both(s.output_padding, 0)) return false;
  return s.transposed || (s.height % 2 == 0 && s.width % 2 == 0);
}

bool covers(ConvKernel kernel, const ConvShape& s) {
  switch (kernel) {
    case ConvKernel::Winograd: return halves(s) && s.dtype == DType::Float32;
    case ConvKernel::Thin: return halves(s) && s.dtype != DType::Float64 && s.weight[1] <= kThinLargeChannels;
    case ConvKernel::Matmul: {
      if (empty(s) || s.groups != 1 || !both(s.padding, 0) || !both(s.dilation, 1)) return false;
      if (s.transposed) return s.height == 1 && s.width == 1 && both(s.output_padding, 0);
      return s.height == s.weight[2] && s.width == s.weight[3];
    }
    case ConvKernel::Aten: break;
  }
  return true;
}

WinogradShape winograd_shape(const ConvShape& s) {
  const int64_t halves = s.transposed ? 1 : 2;
  return {s.images, s.height / halves, s.width / halves, s.weight[0], s.weight[1]};
}

}  // namespace

const char* name(ConvKernel kernel) {
  switch (kernel) {
    case ConvKernel::Winograd: return "winograd";
    case ConvKernel::Thin: return "thin";
    case ConvKernel::Matmul: return "matmul";
    case ConvKernel::Aten: break;
  }
  return "aten";
}

ConvKernel plan(const ConvShape& s, ConvProduct product, int64_t threads) {
  const int wanted = forced.load(std::memory_order_relaxed);
  if (wanted >= 0) return covers(ConvKernel(wanted), s) ? ConvKernel(wanted) : ConvKernel::Aten;
  if (covers(ConvKernel::Matmul, s)) return ConvKernel::Matmul;
  if (capability() == Capability::DEFAULT) return ConvKernel::Aten;
  if (covers(ConvKernel::Thin, s)) return ConvKernel::Thin;
  if (!covers(ConvKernel::Winograd, s)) return ConvKernel::Aten;
  const WinogradShape shape = winograd_shape(s);
  (void)product;
  (void)threads;
  return shape.small_channels >= 32 && shape.large_channels >= 16 ? ConvKernel::Winograd : ConvKernel::Aten;
}

bool set_planned(const std::string& word) {
  if (word == "auto") {
    forced = -1;
    return true;
  }
  for (const ConvKernel kernel : {ConvKernel::Aten, ConvKernel::Winograd, ConvKernel::Thin, ConvKernel::Matmul}) {
    if (word != name(kernel)) continue;
    forced = int(kernel);
    return true;
  }
  return false;
}

}  // namespace fastgan::cpu
