// winograd for every CPU.
#include "cpu/winograd.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/winograd_impl.h"
#include "cpu/simd_end.h"
