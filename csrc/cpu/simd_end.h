// Closes what simd_begin.h opened.
}  // namespace fastgan::cpu::FASTGAN_NAMESPACE

#if !defined(FASTGAN_CAPABILITY_DEFAULT)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
