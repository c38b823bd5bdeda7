// rmsprop_clip for every CPU.
#include "cpu/rmsprop_clip.h"

#define FASTGAN_CAPABILITY_DEFAULT
#include "cpu/simd_begin.h"
#include "cpu/rmsprop_clip_impl.h"
#include "cpu/simd_end.h"
