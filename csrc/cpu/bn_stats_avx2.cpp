// bn_stats for AVX2.
#include "cpu/bn_stats.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX2
#include "cpu/simd_begin.h"
#include "cpu/bn_stats_impl.h"
#include "cpu/simd_end.h"
#endif
