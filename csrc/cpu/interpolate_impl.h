// out[n] = epsilon[n] * real[n] + (1 - epsilon[n]) * fake[n]   (Gulrajani et al. 2017, algorithm 1, line 6)
//
// real, fake, out: (samples, sample_size); epsilon: (samples). Numerics: the arithmetic type, one rounding at the end.

template <class S>
FASTGAN_INLINE void interpolate_unit(const InterpolateParams& p, int64_t n, int64_t begin, int64_t end) {
  using T = arithmetic_t<S>;
  const int64_t base = n * p.sample_size + begin;
  const S* real = static_cast<const S*>(p.real) + base;
  const S* fake = static_cast<const S*>(p.fake) + base;
  S* out = static_cast<S*>(p.out) + base;
  const vec<T> epsilon = broadcast(static_cast<const T*>(p.epsilon)[n]), rest = T(1) - epsilon;
  for_vectors<T>(end - begin, [&](int64_t i, auto k) FASTGAN_INLINED {
    store(out + i, fma(epsilon, load(real + i, k), rest * load(fake + i, k)), k);
  });
}

void interpolate(const InterpolateParams& p, int64_t begin, int64_t end) {
  const int64_t pieces = SampleTiles(1, p.sample_size).pieces;
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t first = unit % pieces * kPieceElements, last = first + kPieceElements;
      interpolate_unit<decltype(element)>(p, unit / pieces, first, last < p.sample_size ? last : p.sample_size);
    }
  });
}
