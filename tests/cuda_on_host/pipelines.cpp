// Runs one kernel of pipelines.cuh and compares its result:
//   pipelines gemm|ring|grid_sum|relay FAULT ORDER LANDING      the last three as numbers
// Prints "right", "wrong result" or the executor's error. Inputs are small integers, so sums are exact in any order.
#include "pipelines.cuh"

#include <cstdio>

using namespace fastgan::cuda;

namespace {

std::vector<float> integers(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i * i % 13) - 6.f;
  return values;
}

bool gemm_is_right(Fault fault) {
  constexpr int m = 13, n = 18, k = 44;
  std::vector<float> a = integers(m * k), b = integers(k * n), bias = integers(n), c(m * n), expected(m * n);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      expected[i * n + j] = bias[j];
      for (int l = 0; l < k; ++l) expected[i * n + j] += a[i * k + l] * b[l * n + j];
    }
  }
  const dim3 grid((n + kTile - 1) / kTile, (m + kTile - 1) / kTile);
  launch(gemm, grid, dim3(kTile * kTile), nullptr, a.data(), b.data(), bias.data(), c.data(), m, n, k, fault);
  return c == expected;
}

bool ring_is_right(Fault fault) {
  constexpr int blocks = 2, chunks = 8;
  const std::vector<float> in = integers(blocks * chunks * kConsumers);
  std::vector<float> out(blocks * kConsumers), expected(blocks * kConsumers);
  for (int i = 0; i < blocks * chunks * kConsumers; ++i) {
    float& sum = expected[i / (chunks * kConsumers) * kConsumers + i % kConsumers];
    sum = 0.5f * sum + in[i];
  }
  launch(ring, dim3(blocks), dim3(kProducers + kConsumers), nullptr, in.data(), out.data(), chunks, fault);
  return out == expected;
}

bool grid_sum_is_right(Fault fault) {
  constexpr int blocks = 5;
  const std::vector<float> in = integers(blocks * kSumThreads);
  std::vector<float> partial(blocks);
  float out = 0.f, expected = 0.f;
  for (float x : in) expected += x;
  unsigned finished = 0;
  launch(grid_sum, dim3(blocks), dim3(kSumThreads), nullptr, in.data(), partial.data(), &finished, &out, fault);
  return out == expected;
}

bool relay_is_right(Fault fault) {
  constexpr int blocks = 4;
  const std::vector<float> in = integers(blocks * kRelayThreads);
  std::vector<float> held(in.size()), out(in.size()), expected(in.size());
  for (int i = 0; i < blocks * kRelayThreads; ++i) {
    const int block = i / kRelayThreads + kRelayRounds, thread = i % kRelayThreads + kRelayRounds;
    expected[i] = in[block % blocks * kRelayThreads + thread % kRelayThreads];
  }
  launch_cooperative(relay, dim3(blocks), dim3(kRelayThreads), 0, nullptr, in.data(), held.data(), out.data(), fault);
  return out == expected;
}

}  // namespace

int main(int, char** arguments) {
  const std::string kernel = arguments[1];
  const auto fault = static_cast<Fault>(std::atoi(arguments[2]));
  cuda_on_host::options.order = static_cast<cuda_on_host::Order>(std::atoi(arguments[3]));
  cuda_on_host::options.landing = static_cast<cuda_on_host::Landing>(std::atoi(arguments[4]));
  try {
    const bool right = kernel == "gemm"    ? gemm_is_right(fault)
                       : kernel == "ring"  ? ring_is_right(fault)
                       : kernel == "relay" ? relay_is_right(fault)
                                           : grid_sum_is_right(fault);
    std::puts(right ? "right" : "wrong result");
  } catch (const std::exception& error) {
    std::puts(error.what());
  }
}
