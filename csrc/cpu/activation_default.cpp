// activation for every CPU.
#include "cpu/activation.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/activation_impl.h"
#include "cpu/simd_end.h"
