// Opens the namespace and the instruction set of one capability; simd_end.h closes them. No include guard: a file defines
// FASTGAN_CAPABILITY_DEFAULT, _AVX2 or _AVX512 and includes this once. Everything between the two is compiled for that
// instruction set and lives in a namespace of its own. Standard headers come before the region: their templates and inline
// functions are shared with every other object of the program, and the linker, which keeps one copy, might keep one that
// needs AVX-512.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/activation_kind.h"
#include "cpu/capability.h"
#include "cpu/dtype.h"
#if FASTGAN_X86
#include <immintrin.h>
#endif

#if defined(FASTGAN_CAPABILITY_AVX512)
#define FASTGAN_NAMESPACE AVX512
#define FASTGAN_VECTOR_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#elif defined(FASTGAN_CAPABILITY_AVX2)
#define FASTGAN_NAMESPACE AVX2
#define FASTGAN_VECTOR_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#else
#define FASTGAN_NAMESPACE DEFAULT
#define FASTGAN_VECTOR_BYTES 16
#endif

namespace fastgan::cpu::FASTGAN_NAMESPACE {

#include "cpu/vec.h"
