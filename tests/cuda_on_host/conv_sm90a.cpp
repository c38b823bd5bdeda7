// csrc/cuda/conv_gemm_sm90a.cu for the executor, behind C functions for test_conv_sm90a.py; pointers are host memory.
#include "conv_gemm_sm90a.cu"

using namespace fastgan::cuda;

namespace {
std::string message;
}

extern "C" {

void set_options(int order, int landing) {
  cuda_on_host::options.order = static_cast<cuda_on_host::Order>(order);
  cuda_on_host::options.landing = static_cast<cuda_on_host::Landing>(landing);
}

// shape: samples, coarse h, w, channels, fine h, w, channels, kernel, stride, padding. moments: mean, var, invstd or
// null. Returns null or the text of the error.
const char* conv_gemm_sm90a_on_host(const int64_t* shape, int direction, int dtype, const void* x, const void* weight,
                                    const void* bias, void* out, float* moments) {
  const int kernel = static_cast<int>(shape[7]), stride = static_cast<int>(shape[8]);
  const int padding = static_cast<int>(shape[9]);
  ConvGemmParams p{};
  p.shape = {shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6],
             kernel,   kernel,   stride,   stride,   padding,  padding};
  p.direction = static_cast<ConvDirection>(direction);
  p.dtype = static_cast<DType>(dtype);
  p.x = x;
  p.weight = weight;
  p.weight_layout = Layout::ChannelsLast;
  p.bias = bias;
  p.out = out;
  p.epilogue = moments ? ConvEpilogue::Statistics : ConvEpilogue::Store;
  if (moments) {
    const int64_t channels = p.direction == ConvDirection::Up ? shape[6] : shape[3];
    p.mean = moments, p.var = moments + channels, p.invstd = moments + 2 * channels;
    p.eps = 1e-5f;
  }
  try {
    std::vector<unsigned char> workspace(static_cast<size_t>(conv_gemm_sm90a_workspace(p)) + 16, 0xFF);
    p.workspace = workspace.data();
    const cudaError_t status = conv_gemm_sm90a(p, nullptr);
    if (status == cudaSuccess) return nullptr;
    message = "launch returned error " + std::to_string(static_cast<int>(status));
  } catch (const std::exception& e) {
    message = e.what();
  }
  return message.c_str();
}
}
