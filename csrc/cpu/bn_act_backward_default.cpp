// bn_act_backward for every CPU.
#include "cpu/bn_act_backward.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/bn_act_backward_impl.h"
#include "cpu/simd_end.h"
