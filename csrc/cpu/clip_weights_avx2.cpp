// clip_weights for AVX2.
#include "cpu/clip_weights.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX2
#include "cpu/simd_begin.h"
#include "cpu/clip_weights_impl.h"
#include "cpu/simd_end.h"
#endif
