// Which implementation computes a convolution on the CPU: a deterministic function of its shape, the instruction set and the
// number of threads, from a model of what each implementation costs.
#pragma once

#include <cstdint>
#include <string>

#include "cpu/dtype.h"

namespace fastgan::cpu {

enum class ConvKernel {
  Aten,
  Winograd,  // winograd.h
  Thin,      // thin_conv.h
  Matmul,    // one matrix product: between 1x1 and the size of the kernel
};

const char* name(ConvKernel kernel);

// What is to be computed from x and weight: the output, the gradient of x, or that of the weight.
enum class ConvProduct { Output, InputGradient, WeightGradient };

struct ConvShape {
  DType dtype;
  bool transposed;
  int64_t images, in_channels, height, width;  // of x
  int64_t weight[4];
  int64_t stride[2], padding[2], output_padding[2], dilation[2];
  int64_t groups;
};

ConvKernel plan(const ConvShape& shape, ConvProduct product, int64_t threads);

// Whether there is a size of x, and a dtype, for which one of this project's kernels covers the convolution; those of `shape`
// are not looked at.
bool ever_covered(ConvShape shape);

// For tests and measurements: "auto", or the name of the kernel to use wherever it covers the call.
bool knows_planned(const std::string& word);
void set_planned(const std::string& word);

}  // namespace fastgan::cpu
