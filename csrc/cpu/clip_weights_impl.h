// param = min(max(param, -clip_value), clip_value); NaN stays NaN   (Arjovsky et al. 2017, algorithm 1, line 7)

void clip_weights(const ClipWeightsParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    using S = decltype(element);
    using T = arithmetic_t<S>;
    S* param = static_cast<S*>(p.param) + begin;
    const T clip = T(p.clip_value);
    for_vectors<T>(end - begin, [&](int64_t i, auto k) FASTGAN_INLINED {
      store(param + i, clamp(load(param + i, k), clip), k);
    });
  });
}
