// bn_act_backward for AVX2.
#include "cpu/bn_act_backward.h"

#if FASTGAN_X86
#define FASTGAN_CAPABILITY_AVX2
#include "cpu/simd_begin.h"
#include "cpu/bn_act_backward_impl.h"
#include "cpu/simd_end.h"
#endif
