// penalty for every CPU.
#include "cpu/penalty.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/penalty_impl.h"
#include "cpu/simd_end.h"
