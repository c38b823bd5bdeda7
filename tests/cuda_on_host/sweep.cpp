// Every kernel over awkward sizes on memory of exactly the right size, for builds with sanitizers (an access past an
// end, a vector load off its alignment, undefined arithmetic) and with the race detector. Prints the kernels run and the
// number of failures. Results are test_kernels.py's business. The convolutions: sweep_conv.cpp.
#include "kernels.cpp"
#include "sweep.h"

namespace {

void images(DType dtype, Layout layout, int64_t n, int64_t c, int64_t s, int64_t offset) {
  const ImageShape shape{n, c, s, layout};
  const auto image = [&] { return Buffer(shape.numel(), dtype, offset); };
  const auto vector = [&] { return Buffer(c, DType::Float32); };
  const Buffer z = image(), y = image(), grad_y = image(), grad_z = image();
  const Buffer mean = vector(), var = vector(), invstd = vector(), gamma = vector(), beta = vector();
  const Buffer g = vector(), gx = vector();
  check("bn_stats", run_bn_stats({z, shape, dtype, mean, var, invstd, 1e-5f, nullptr}));
  check("inverse_std", run_inverse_std({var, invstd, c, 1e-5f}));
  const Buffer running_mean(c, dtype, offset), running_var(c, dtype, offset);
  check("running_stats", run_running_stats({mean, invstd, running_mean, running_var, c, dtype, 0.1f, 1.5f, 1e-5f}));
  const BnChannels channels{mean, invstd, gamma, beta, DType::Float32};
  check("bn_act", run_bn_act({z, y, shape, dtype, channels, Activation::Relu, 0.f}));
  const BnActBackwardParams common{grad_y, y, z, shape, dtype, channels, Activation::Tanh, 0.f};
  check("bn_act_backward_reduce", run_bn_act_backward_reduce({common, g, gx, nullptr}));
  check("bn_act_backward_elemt", run_bn_act_backward_elemt({common, g, gx, 1.f, grad_z}));
}

void samples(DType dtype, int64_t n, int64_t d, int64_t offset) {
  const Buffer real(n * d, dtype, offset), fake(n * d, dtype, offset), out(n * d, dtype, offset);
  const Buffer epsilon(n, dtype), norms(n, DType::Float32), scalar(1, DType::Float32);
  check("interpolate", run_interpolate({real, fake, epsilon, out, n, d, dtype, dtype}));
  check("penalty", run_penalty({real, out, scalar, norms, n, d, dtype, 10.f, 1.f, false, nullptr}));
  check("leaky_mask_mul", run_leaky_mask_mul({real, fake, out, n * d, dtype, 0.2f}));
  void* lists[5] = {real, fake, out, nullptr, nullptr};
  const int64_t numel = n * d;
  check("clip_weights", run_clip_weights({lists, &numel, 1, dtype, 0.01f}));
  check("rmsprop_clip", run_rmsprop_clip({lists, lists + 1, lists + 2, nullptr, nullptr, &numel, 1, dtype, nullptr, 1e-3, 0.99,
                                          1e-8, 0, 0, false, 0.01}));
}

}  // namespace

int main() {
  for (DType dtype : {DType::Float32, DType::BFloat16, DType::Float16}) {
    for (int64_t offset : {0, 1}) {
      for (Layout layout : {Layout::ChannelsFirst, Layout::ChannelsLast}) {
        images(dtype, layout, 2, 3, 35, offset);
        images(dtype, layout, 3, 8, 16, offset);
        images(dtype, layout, 5, 40, 1, offset);
      }
      samples(dtype, 3, 35, offset);
      samples(dtype, 2, 4104, offset);
    }
  }
  return report();
}
