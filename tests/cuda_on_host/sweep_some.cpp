// sweep.cpp for the three kernels alone into whose sources the tests put faults: it compiles in half the time. The argument
// names the kernel to run.
#include <array>

#include "bn_act.cu"
#include "bn_stats.cu"
#include "leaky_mask_mul.cu"

#include "kernel_calls.h"
#include "sweep.h"

namespace {

void run(const std::string& op, DType dtype, const ImageShape& shape, int64_t offset) {
  const auto vector = [&] { return Buffer(shape.channels, DType::Float32); };
  const Buffer z(shape.numel(), dtype, offset), y(shape.numel(), dtype, offset), out(shape.numel(), dtype, offset);
  const Buffer mean = vector(), var = vector(), invstd = vector(), gamma = vector(), beta = vector();
  check(op.c_str(), guarded([&] {
    if (op == "bn_act") {
      const BnChannels channels{mean, invstd, gamma, beta, DType::Float32};
      return bn_act({z, y, shape, dtype, channels, Activation::Relu, 0.f}, nullptr);
    }
    if (op == "leaky_mask_mul") return leaky_mask_mul({z, y, out, shape.numel(), dtype, 0.2f}, nullptr);
    BnStatsParams p{z, shape, dtype, mean, var, invstd, 1e-5f, nullptr};
    const auto memory = workspace(bn_stats_workspace(p));
    p.workspace = memory.get();
    return bn_stats(p, nullptr);
  }));
}

}  // namespace

int main(int, char** arguments) {
  for (DType dtype : {DType::Float32, DType::BFloat16}) {
    for (int64_t offset : {0, 1}) {
      for (Layout layout : {Layout::ChannelsFirst, Layout::ChannelsLast}) {
        for (const auto& [n, c, s] : {std::array<int64_t, 3>{2, 3, 35}, {3, 8, 16}, {5, 40, 1}}) {
          run(arguments[1], dtype, {n, c, s, layout}, offset);
        }
      }
    }
  }
  return report();
}
