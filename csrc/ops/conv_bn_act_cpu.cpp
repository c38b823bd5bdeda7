// The fused convolutions on the CPU.
#include "ops/conv_bn_act.h"

#include "ops/bn_act_cpu.h"

namespace fastgan::ops {

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) { register_conv_bn_act<CpuPasses>(m); }

}  // namespace fastgan::ops
