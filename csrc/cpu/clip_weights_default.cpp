// clip_weights for every CPU.
#include "cpu/clip_weights.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/clip_weights_impl.h"
#include "cpu/simd_end.h"
