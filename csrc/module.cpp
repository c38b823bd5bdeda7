// The Python module fastgan._C: what was built, and which instruction set runs. Importing it registers the kernels, which
// are reached through torch.ops.fastgan; no tensor passes through here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "build_info.h"
#include "cpu/capability.h"
#include "cpu/conv_plan.h"
#include "ops/conv_choices.h"
#include "ops/workspace.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

py::dict build_info() {
  py::dict info;
  for (const auto& fact : kBuildInfo) info[fact[0]] = fact[1];
  return info;
}

void set_cpu_capability(const std::string& wanted) {
  for (const cpu::Capability c : {cpu::Capability::DEFAULT, cpu::Capability::AVX2, cpu::Capability::AVX512}) {
    if (wanted != cpu::name(c)) continue;
    if (cpu::set_capability(c)) return;
    throw std::invalid_argument("set_cpu_capability: capability is " + wanted + "; this process takes at most " +
                                cpu::name(cpu::best_capability()));
  }
  throw std::invalid_argument("set_cpu_capability: capability is '" + wanted + "'; it takes DEFAULT, AVX2 or AVX512");
}

using Ints = std::vector<int64_t>;

cpu::DType dtype_named(const std::string& dtype) {
  if (dtype == "float32") return cpu::DType::Float32;
  if (dtype == "bfloat16") return cpu::DType::BFloat16;
  if (dtype == "float16") return cpu::DType::Float16;
  if (dtype == "float64") return cpu::DType::Float64;
  throw std::invalid_argument("dtype is '" + dtype + "'; it takes float32, bfloat16, float16 or float64");
}

cpu::ConvShape conv_shape(const std::string& function, const Ints& x, const Ints& weight, const Ints& stride,
                          const Ints& padding, const Ints& dilation, bool transposed, const Ints& output_padding,
                          int64_t groups, const std::string& dtype) {
  const bool complete = x.size() == 4 && weight.size() == 4 && stride.size() == 2 && padding.size() == 2 &&
                        dilation.size() == 2 && output_padding.size() == 2;
  if (!complete) throw std::invalid_argument(function + ": x and weight take 4 sizes, the options take 2");
  return {dtype_named(dtype), transposed, x[0], x[1], x[2], x[3], {weight[0], weight[1], weight[2], weight[3]},
          {stride[0], stride[1]}, {padding[0], padding[1]}, {output_padding[0], output_padding[1]},
          {dilation[0], dilation[1]}, groups};
}

// Names of the implementations of a convolution: of its output, the gradient of its input, that of its weight.
py::tuple convolution_plan(const Ints& x, const Ints& weight, const Ints& stride, const Ints& padding, const Ints& dilation,
                           bool transposed, const Ints& output_padding, int64_t groups, const std::string& dtype,
                           int64_t threads) {
  const cpu::ConvShape shape =
      conv_shape("convolution_plan", x, weight, stride, padding, dilation, transposed, output_padding, groups, dtype);
  const auto planned = [&](cpu::ConvProduct product) { return cpu::name(cpu::plan(shape, product, threads)); };
  return py::make_tuple(planned(cpu::ConvProduct::Output), planned(cpu::ConvProduct::InputGradient),
                        planned(cpu::ConvProduct::WeightGradient));
}

bool convolution_covered(const Ints& weight, const Ints& stride, const Ints& padding, const Ints& dilation, bool transposed,
                         const Ints& output_padding, int64_t groups) {
  return cpu::ever_covered(conv_shape("convolution_covered", {1, 1, 1, 1}, weight, stride, padding, dilation, transposed,
                                      output_padding, groups, "float32"));
}

// A word that one kind of device does not know leaves it at "auto".
void set_convolution_plan(const std::string& wanted) {
  const bool cpu_knows = cpu::knows_planned(wanted), cuda_knows = ops::knows_conv_choice(wanted);
  if (!cpu_knows && !cuda_knows) {
    throw std::invalid_argument("set_convolution_plan: plan is '" + wanted + "'; it takes auto, aten, matmul or thin, winograd for "
                                "the CPU, " + ops::conv_choice_words() + " for CUDA");
  }
  cpu::set_planned(cpu_knows ? wanted : "auto");
  ops::set_conv_choice(cuda_knows ? wanted : "auto");
}

// Every choice on a CUDA device: {call in words: (kernel, {candidate: microseconds})}.
py::dict convolution_choices(int device) {
  py::dict result;
  for (const auto& [key, choice] : ops::conv_choices(device)) {
    result[key.c_str()] = py::make_tuple(choice.kernel, choice.microseconds);
  }
  return result;
}

void add_convolution_choices(int device, const std::map<std::string, std::pair<std::string, std::map<std::string, double>>>& all) {
  for (const auto& [key, choice] : all) ops::choose_conv(device, key, {choice.first, choice.second});
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastgan. Importing registers them with torch.ops.fastgan.";
  m.def("build_info", &build_info, "Facts of the build: dict of strings.");
  m.def("cpu_capability", [] { return cpu::name(cpu::capability()); },
        "The instruction set that CPU kernels use: 'DEFAULT', 'AVX2' or 'AVX512'. ATEN_CPU_CAPABILITY lowers it.");
  m.def("set_cpu_capability", &set_cpu_capability, py::arg("capability"),
        "For tests: use this instruction set, at most the best one of this process.");
  m.def("convolution_plan", &convolution_plan, py::arg("x"), py::arg("weight"), py::arg("stride"), py::arg("padding"),
        py::arg("dilation"), py::arg("transposed"), py::arg("output_padding"), py::arg("groups"), py::arg("dtype"),
        py::arg("threads"),
        "What computes a convolution of these shapes here: (output, gradient of x, gradient of weight), each 'aten', 'winograd', "
        "'thin' or 'matmul'.");
  m.def("convolution_covered", &convolution_covered, py::arg("weight"), py::arg("stride"), py::arg("padding"),
        py::arg("dilation"), py::arg("transposed"), py::arg("output_padding"), py::arg("groups"),
        "Whether convolution_plan may say anything but 'aten' for some x and dtype.");
  m.def("set_convolution_plan", &set_convolution_plan, py::arg("plan"),
        "'auto', or the implementation to use wherever it covers a convolution; 'fixed': on CUDA, the first that does, untimed.");
  m.def("convolution_choices", &convolution_choices, py::arg("device"),
        "What trials chose on this CUDA device: {call: (kernel, {candidate: microseconds})}.");
  m.def("add_convolution_choices", &add_convolution_choices, py::arg("device"), py::arg("choices"),
        "Takes what convolution_choices gave, here or in another process on the same kind of device.");
  m.def("release_workspaces", &ops::release_workspaces, "Frees the scratch memory kept between calls; bytes it held.");
}
