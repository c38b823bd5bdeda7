// winograd for AVX2.
#include "cpu/winograd.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX2
#include "cpu/simd_begin.h"
#include "cpu/winograd_impl.h"
#include "cpu/simd_end.h"
#endif
