// activation: out = act(x);  activation_backward: out = x * act'(y), y being the activation's output.
//
// All arrays flat, in one memory order. Numerics: the arithmetic type, one rounding at the end.

template <class S, Activation A>
FASTGAN_INLINE void activation_range(const ActivationParams& p, int64_t begin, int64_t end) {
  using T = arithmetic_t<S>;
  const S* x = static_cast<const S*>(p.x) + begin;
  S* out = static_cast<S*>(p.out) + begin;
  for_vectors<T>(end - begin, [&](int64_t i, auto k) FASTGAN_INLINED {
    store(out + i, activate<A>(load(x + i, k), T(p.negative_slope)), k);
  });
}

template <class S, Activation A>
FASTGAN_INLINE void activation_backward_range(const ActivationParams& p, int64_t begin, int64_t end) {
  using T = arithmetic_t<S>;
  const S* x = static_cast<const S*>(p.x) + begin;
  const S* y = static_cast<const S*>(p.y) + begin;
  S* out = static_cast<S*>(p.out) + begin;
  for_vectors<T>(end - begin, [&](int64_t i, auto k) FASTGAN_INLINED {
    store(out + i, activation_gradient<A>(load(x + i, k), load(y + i, k), T(p.negative_slope)), k);
  });
}

void activation(const ActivationParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    with_activation(p.activation, [&](auto a) FASTGAN_INLINED {
      activation_range<decltype(element), decltype(a)::value>(p, begin, end);
    });
  });
}

void activation_backward(const ActivationParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    with_activation(p.activation, [&](auto a) FASTGAN_INLINED {
      activation_backward_range<decltype(element), decltype(a)::value>(p, begin, end);
    });
  });
}
