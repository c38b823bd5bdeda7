// Runs the kernels of tensor_cores.cuh and compares their results:
//   tensor_cores product|stored|gathered PATTERNS FAULT ORDER LANDING        all but the first as numbers
// Prints a line for each case: its name and "right", what is wrong, or the error. Built over the executor it is a test
// of the executor; built by nvcc (-x cu, for sm_90a), ORDER and LANDING mean nothing and it is the proof, on a GPU, of
// the layouts written down in csrc/cuda/ptx_sm90a.cuh.
//
// Operands are index-coded: pattern 0 are small integers, whose sums are exact in any order; of the others one operand
// selects and the other holds its own index, so that a wrong result says which element arrived in place of which.
#include "tensor_cores.cuh"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

using namespace fastgan::cuda;

namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error("CUDA error " + std::to_string(static_cast<int>(status)));
}

// Memory that kernels can use.
template <class T>
class Buffer {
 public:
  explicit Buffer(const std::vector<T>& values) : values_(values) {
#if defined(__CUDACC__)
    check(cudaMalloc(&data_, values.size() * sizeof(T)));
    check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
#else
    data_ = static_cast<T*>(std::aligned_alloc(128, (values.size() * sizeof(T) + 127) / 128 * 128));
    std::copy(values.begin(), values.end(), data_);
#endif
  }
  ~Buffer() {
#if defined(__CUDACC__)
    cudaFree(data_);
#else
    std::free(data_);
#endif
  }
  Buffer(const Buffer&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() {
#if defined(__CUDACC__)
    check(cudaMemcpy(values_.data(), data_, values_.size() * sizeof(T), cudaMemcpyDeviceToHost));
#else
    std::copy(data_, data_ + values_.size(), values_.begin());
#endif
    return values_;
  }

 private:
  std::vector<T> values_;
  T* data_ = nullptr;
};

constexpr int kPatterns = 5;

float element_of_a(int pattern, int i, int k, int depth) {
  if (pattern == 0) return static_cast<float>((i * 7 + k * k + i * k) % 13) - 6.f;
  if (pattern <= 2) return k == i % depth ? 1.f : 0.f;
  return static_cast<float>(pattern == 3 ? i : k);
}

float element_of_b(int pattern, int k, int j, int depth) {
  if (pattern == 0) return static_cast<float>((k * 5 + j * j + k * j) % 11) - 5.f;
  if (pattern >= 3) return k == j % depth ? 1.f : 0.f;
  return static_cast<float>(pattern == 1 ? k : j);
}

std::string compare(const std::vector<float>& c, const std::vector<float>& a, const std::vector<float>& b, int m, int n,
                    int depth, int pattern) {  // a (m, depth), b (depth, n)
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      float expected = 0.f;
      for (int k = 0; k < depth; ++k) expected += a[i * depth + k] * b[k * n + j];
      if (c[i * n + j] == expected) continue;
      return "wrong: pattern " + std::to_string(pattern) + ", C[" + std::to_string(i) + "][" + std::to_string(j) +
             "] is " + std::to_string(c[i * n + j]) + ", not " + std::to_string(expected);
    }
  }
  return "";
}

// (rows, columns) row by row, or column by column.
template <class T>
std::vector<T> in_order(const std::vector<float>& values, int rows, int columns, bool transposed) {
  std::vector<T> ordered(values.size());
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) ordered[transposed ? j * rows + i : i * columns + j] = T(values[i * columns + j]);
  }
  return ordered;
}

template <class T>
CUtensorMap matrix_map(const T* data, int contiguous, int rows, int width, int height, int swizzle) {
  CUtensorMap map;
  const BoxedTensor<2> tensor{data, {static_cast<uint64_t>(contiguous), static_cast<uint64_t>(rows)},
                              {static_cast<uint64_t>(contiguous) * sizeof(T)},
                              {static_cast<uint32_t>(width), static_cast<uint32_t>(height)}, {1, 1}, swizzle};
  check(encode_tensor_map(tensor, &map));
  return map;
}

template <class T, Major kMajorA, Major kMajorB, int kM, int kN, int S>
std::string run_product(int patterns, TensorFault fault) {
  using TileA = WgmmaTile<kMajorA, kM, kProductDepth, S>;
  using TileB = WgmmaTile<kMajorB, kN, kProductDepth, S>;
  constexpr int kSteps = 3, kDepth = kSteps * kProductDepth;
  for (int pattern = 0; pattern < patterns; ++pattern) {
    std::vector<float> a(kM * kDepth), b(kDepth * kN);
    for (int i = 0; i < kM * kDepth; ++i) a[i] = element_of_a(pattern, i / kDepth, i % kDepth, kDepth);
    for (int i = 0; i < kN * kDepth; ++i) b[i] = element_of_b(pattern, i / kN, i % kN, kDepth);
    Buffer<T> of_a(in_order<T>(a, kM, kDepth, kMajorA == Major::MN));
    Buffer<T> of_b(in_order<T>(b, kDepth, kN, kMajorB == Major::K));
    Buffer<float> c(std::vector<float>(kM * kN));
    const CUtensorMap map_a = matrix_map(of_a.data(), kMajorA == Major::K ? kDepth : kM,
                                         kMajorA == Major::K ? kM : kDepth, TileA::kBoxWidth, TileA::kBoxHeight, S);
    const CUtensorMap map_b = matrix_map(of_b.data(), kMajorB == Major::K ? kDepth : kN,
                                         kMajorB == Major::K ? kN : kDepth, TileB::kBoxWidth, TileB::kBoxHeight, S);
    constexpr int kShared = kProductStages * (TileA::kBytes + TileB::kBytes) + 2 * TileA::kAlignment;  // or misaligned
    check(launch_with_shared(product<T, kMajorA, kMajorB, kM, kN, S>, dim3(1), dim3(kM * 2 + 32), kShared, nullptr,
                             map_a, map_b, c.data(), kSteps, fault));
    const std::string wrong = compare(c.values(), a, b, kM, kN, kDepth, pattern);
    if (!wrong.empty()) return wrong;
  }
  return "right";
}

template <class Body>
void report(const std::string& name, Body&& body) {
  std::string result;
  try {
    result = body();
  } catch (const std::exception& error) {
    result = error.what();
  }
  std::printf("%s: %s\n", name.c_str(), result.c_str());
}

template <class T, Major kMajorA, Major kMajorB, int kM, int kN, int S>
void report_product(int patterns, TensorFault fault) {
  const auto letters = [](Major major) { return major == Major::K ? "K" : "MN"; };
  const std::string type = std::is_same_v<T, __half> ? "fp16" : "bf16";
  report(type + " " + std::to_string(kM) + "x" + std::to_string(kN) + " A " + letters(kMajorA) + "-major B " +
             letters(kMajorB) + "-major swizzle " + (S == 16 ? "none" : std::to_string(S)),
         [&] { return run_product<T, kMajorA, kMajorB, kM, kN, S>(patterns, fault); });
}

template <int S>
void report_majors(int patterns) {
  using T = __nv_bfloat16;
  report_product<T, Major::K, Major::K, 64, 64, S>(patterns, TensorFault::None);
  report_product<T, Major::K, Major::MN, 64, 64, S>(patterns, TensorFault::None);
  report_product<T, Major::MN, Major::K, 64, 64, S>(patterns, TensorFault::None);
  report_product<T, Major::MN, Major::MN, 64, 64, S>(patterns, TensorFault::None);
}

void report_products(int patterns, TensorFault fault) {
  if (fault == TensorFault::LeadingTwiceAsLong) {  // a K-major operand with a swizzle has no such offset
    return report_product<__nv_bfloat16, Major::K, Major::K, 64, 64, 16>(patterns, fault);
  }
  if (fault != TensorFault::None) {
    return report_product<__nv_bfloat16, Major::K, Major::K, 64, 64, 128>(patterns, fault);
  }
  report_majors<128>(patterns);
  report_majors<64>(patterns);
  report_majors<32>(patterns);
  report_majors<16>(patterns);
  report_product<__nv_bfloat16, Major::K, Major::K, 128, 128, 128>(patterns, TensorFault::None);
  report_product<__half, Major::K, Major::MN, 128, 128, 128>(patterns, TensorFault::None);
}

std::string run_stored(int patterns, TensorFault fault) {
  using T = __nv_bfloat16;
  for (int pattern = 0; pattern < patterns; ++pattern) {
    std::vector<float> a(64 * 64), b(64 * 64);
    for (int i = 0; i < 64 * 64; ++i) a[i] = element_of_a(pattern, i / 64, i % 64, 64);
    for (int i = 0; i < 64 * 64; ++i) b[i] = element_of_b(pattern, i / 64, i % 64, 64);
    Buffer<T> of_a(in_order<T>(a, 64, 64, false)), of_b(in_order<T>(b, 64, 64, true));
    Buffer<float> c(std::vector<float>(64 * 64));
    check(launch_with_shared(stored<T>, dim3(1), dim3(128), 2 * 8192 + 1024, nullptr,
                             static_cast<const T*>(of_a.data()), static_cast<const T*>(of_b.data()), c.data(), fault));
    const std::string wrong = compare(c.values(), a, b, 64, 64, 64, pattern);
    if (!wrong.empty()) return wrong;
  }
  return "right";
}

// Boxes of an image (N, H, W, C) whose elements are their own indices, at all kinds of places: shifted by one to every
// side, past the far edges, with traversal strides.
std::string run_gathered(int step, int channels) {
  constexpr int kWidth = 7, kHeight = 6, kSamples = 3, kBoxW = 4, kBoxH = 4, kBoxN = 2, kBoxC = 64;
  std::vector<uint16_t> image(kSamples * kHeight * kWidth * channels);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<uint16_t>(i + 1);
  Buffer<uint16_t> pixels(image);
  const auto u = [](int x) { return static_cast<uint64_t>(x); };
  const auto s = static_cast<uint32_t>(step);
  CUtensorMap map;
  check(encode_tensor_map(
      BoxedTensor<4>{pixels.data(), {u(channels), kWidth, kHeight, kSamples},
                     {u(channels * 2), u(kWidth * channels * 2), u(kHeight * kWidth * channels * 2)},
                     {kBoxC, kBoxW, kBoxH, kBoxN}, {1, s, s, 1}, 128},
      &map));
  constexpr int kElements = kBoxC * kBoxW * kBoxH * kBoxN;
  for (int place = 0; place < 16; ++place) {
    const int c = place / 8 * 64, x = place % 3 * 2 - 1, y = place % 4 - 1, n = place % 2 * 2;
    if (c >= channels) break;
    Buffer<uint16_t> out{std::vector<uint16_t>(kElements)};
    check(launch_with_shared(gathered, dim3(1), dim3(32), kElements * 2 + 1024, nullptr, map, out.data(), kElements, c,
                             x, y, n));
    const std::vector<uint16_t> got = out.values();
    for (int i = 0; i < kElements; ++i) {
      const int row = i / kBoxC, channel = c + (i % kBoxC ^ row % 8 * 8);  // chunks of 8 elements change places
      const int px = x + row % kBoxW * step, py = y + row / kBoxW % kBoxH * step, sample = n + row / (kBoxW * kBoxH);
      const bool inside = channel < channels && px >= 0 && px < kWidth && py >= 0 && py < kHeight && sample < kSamples;
      const int expected = inside ? image[((sample * kHeight + py) * kWidth + px) * channels + channel] : 0;
      if (got[i] != expected) {
        return "wrong: box at (" + std::to_string(c) + ", " + std::to_string(x) + ", " + std::to_string(y) + ", " +
               std::to_string(n) + "), element " + std::to_string(i) + " is " + std::to_string(got[i]) + ", not " +
               std::to_string(expected);
      }
    }
  }
  return "right";
}

}  // namespace

int main(int, char** arguments) {
  const std::string kernel = arguments[1];
  const int patterns = std::atoi(arguments[2]) < kPatterns ? std::atoi(arguments[2]) : kPatterns;
  const auto fault = static_cast<TensorFault>(std::atoi(arguments[3]));
#if !defined(__CUDACC__)
  cuda_on_host::options.order = static_cast<cuda_on_host::Order>(std::atoi(arguments[4]));
  cuda_on_host::options.landing = static_cast<cuda_on_host::Landing>(std::atoi(arguments[5]));
#endif
  if (kernel == "product") report_products(patterns, fault);
  if (kernel == "stored") report("stored by threads", [&] { return run_stored(patterns, fault); });
  if (kernel == "gathered") {
    for (const int step : {1, 2}) {
      for (const int channels : {64, 72}) {
        report("image of " + std::to_string(channels) + " channels, traversal stride " + std::to_string(step),
               [&] { return run_gathered(step, channels); });
      }
    }
  }
}
