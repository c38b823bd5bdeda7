// The Python module fastgan._C: what was built, and which instruction set runs. Importing it registers the kernels, which
// are reached through torch.ops.fastgan; no tensor passes through here.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "build_info.h"
#include "cpu/capability.h"

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

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastgan. Importing registers them with torch.ops.fastgan.";
  m.def("build_info", &build_info, "Facts of the build: dict of strings.");
  m.def("cpu_capability", [] { return cpu::name(cpu::capability()); },
        "The instruction set that CPU kernels use: 'DEFAULT', 'AVX2' or 'AVX512'. ATEN_CPU_CAPABILITY lowers it.");
  m.def("set_cpu_capability", &set_cpu_capability, py::arg("capability"),
        "For tests: use this instruction set, at most the best one of this process.");
}
