// clip_weights for AVX512.
#include "cpu/clip_weights.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX512
#include "cpu/simd_begin.h"
#include "cpu/clip_weights_impl.h"
#include "cpu/simd_end.h"
#endif
