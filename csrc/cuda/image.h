// The (N, C, S) view of an image batch and its layouts, the same for CPU and CUDA kernels.
#pragma once

#include "../cpu/image.h"

namespace fastgan::cuda {

using cpu::ImageShape;
using cpu::Layout;

}  // namespace fastgan::cuda
