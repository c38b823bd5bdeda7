// penalty_norms: squares[unit] = sum of grad^2 over the unit;  penalty_scale: out[n] = factor[n] * grad[n].
//
// grad, out: (samples, sample_size); a unit is a piece of one sample, see sample_tiles.h.
// Numerics: four accumulators of the arithmetic type over at most 2048 elements, double beyond.

template <class S>
FASTGAN_INLINE double sum_of_squares(const S* x, int64_t size) {
  using T = arithmetic_t<S>;
  constexpr int64_t kChunk = 2048;
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kChunk) {
    vec<T> s[4] = {};
    for_vectors4<T>(size - begin < kChunk ? size - begin : kChunk, [&](int64_t i, auto k, int a) FASTGAN_INLINED {
      const vec<T> v = load(x + begin + i, k);
      s[a] = fma(v, v, s[a]);
    });
    total += sum((s[0] + s[1]) + (s[2] + s[3]));
  }
  return total;
}

// Calls f(unit, sample, first element, elements) for each unit.
template <class F>
FASTGAN_INLINE void for_pieces_of_samples(const PenaltyParams& p, int64_t begin, int64_t end, F f) {
  const int64_t pieces = SampleTiles(1, p.sample_size).pieces;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t n = unit / pieces, first = unit % pieces * kPieceElements, left = p.sample_size - first;
    f(unit, n, n * p.sample_size + first, left < kPieceElements ? left : kPieceElements);
  }
}

void penalty_norms(const PenaltyParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    const auto* grad = static_cast<const decltype(element)*>(p.grad);
    for_pieces_of_samples(p, begin, end, [&](int64_t unit, int64_t, int64_t first, int64_t size) FASTGAN_INLINED {
      p.squares[unit] = sum_of_squares(grad + first, size);
    });
  });
}

void penalty_scale(const PenaltyParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    using S = decltype(element);
    using T = arithmetic_t<S>;
    const S* grad = static_cast<const S*>(p.grad);
    S* out = static_cast<S*>(p.out);
    for_pieces_of_samples(p, begin, end, [&](int64_t, int64_t n, int64_t first, int64_t size) FASTGAN_INLINED {
      const vec<T> factor = broadcast(static_cast<const T*>(p.factor)[n]);
      for_vectors<T>(size, [&](int64_t i, auto k) FASTGAN_INLINED {
        // factor 0 gives 0, also for a gradient that is not finite or a norm that is 0
        const vec<T> scaled = factor * load(grad + first + i, k);
        store(out + first + i, factor == T(0) ? vec<T>{} : scaled, k);
      });
    });
  });
}
