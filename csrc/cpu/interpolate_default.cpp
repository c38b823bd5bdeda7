// interpolate for every CPU.
#include "cpu/interpolate.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/interpolate_impl.h"
#include "cpu/simd_end.h"
