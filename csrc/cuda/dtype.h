// The element types the CUDA kernels take. Every kernel computes and accumulates in float.
#pragma once

namespace fastgan::cuda {

enum class DType : int { Float32 = 0, BFloat16 = 1, Float16 = 2 };

}  // namespace fastgan::cuda
