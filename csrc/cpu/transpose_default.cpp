// transpose for every CPU.
#include "cpu/transpose.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/transpose_impl.h"
#include "cpu/simd_end.h"
