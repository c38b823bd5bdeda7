// thin_conv for AVX512.
#include "cpu/thin_conv.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX512
#include "cpu/simd_begin.h"
#include "cpu/thin_conv_impl.h"
#include "cpu/simd_end.h"
#endif
