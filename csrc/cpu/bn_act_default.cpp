// bn_act for every CPU.
#include "cpu/bn_act.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/bn_act_impl.h"
#include "cpu/simd_end.h"
