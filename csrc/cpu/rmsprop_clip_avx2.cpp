// rmsprop_clip for AVX2.
#include "cpu/rmsprop_clip.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX2
#include "cpu/simd_begin.h"
#include "cpu/rmsprop_clip_impl.h"
#include "cpu/simd_end.h"
#endif
