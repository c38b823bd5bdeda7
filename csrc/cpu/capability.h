// Which instruction set the kernels use, asked of the CPU at run time, and how a kernel is declared and called by it.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"

#if defined(__x86_64__)
#define FASTGAN_X86 1
#else
#define FASTGAN_X86 0
#endif

namespace fastgan::cpu {

// As ATen names them. AVX2 means AVX2, FMA and F16C; AVX512 means F, BW, DQ and VL besides.
enum class Capability : int { DEFAULT, AVX2, AVX512 };

// The one in use: the best this CPU has, unless ATEN_CPU_CAPABILITY or set_capability asked for less.
Capability capability();

// The best one allowed on this machine and in this process.
Capability best_capability();

// For tests: use `wanted`, which may not be above best_capability(). Returns false, changing nothing, if it is.
bool set_capability(Capability wanted);

const char* name(Capability capability);

}  // namespace fastgan::cpu

// Declares kernel `name(params, begin, end)`, working on the half-open range [begin, end) of its units of work, once a
// capability, and the function that calls the right one. Params has a member `dtype`.
#if FASTGAN_X86
#define FASTGAN_DECLARE_KERNEL(name, Params)                                        \
  namespace DEFAULT {                                                               \
  void name(const Params& p, int64_t begin, int64_t end);                           \
  }                                                                                 \
  namespace AVX2 {                                                                  \
  void name(const Params& p, int64_t begin, int64_t end);                           \
  }                                                                                 \
  namespace AVX512 {                                                                \
  void name(const Params& p, int64_t begin, int64_t end);                           \
  }                                                                                 \
  inline void name(const Params& p, int64_t begin, int64_t end) {                   \
    switch (p.dtype == DType::Float64 ? Capability::DEFAULT : capability()) {       \
      case Capability::AVX512: return AVX512::name(p, begin, end);                  \
      case Capability::AVX2: return AVX2::name(p, begin, end);                      \
      case Capability::DEFAULT: return DEFAULT::name(p, begin, end);                \
    }                                                                               \
  }
#else
#define FASTGAN_DECLARE_KERNEL(name, Params)                                        \
  namespace DEFAULT {                                                               \
  void name(const Params& p, int64_t begin, int64_t end);                           \
  }                                                                                 \
  inline void name(const Params& p, int64_t begin, int64_t end) { DEFAULT::name(p, begin, end); }
#endif
