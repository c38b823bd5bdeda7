// transpose for AVX512.
#include "cpu/transpose.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX512
#include "cpu/simd_begin.h"
#include "cpu/transpose_impl.h"
#include "cpu/simd_end.h"
#endif
