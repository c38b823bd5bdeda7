// thin_conv for every CPU.
#include "cpu/thin_conv.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/thin_conv_impl.h"
#include "cpu/simd_end.h"
