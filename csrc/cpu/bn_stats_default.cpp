// bn_stats for every CPU.
#include "cpu/bn_stats.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/bn_stats_impl.h"
#include "cpu/simd_end.h"
