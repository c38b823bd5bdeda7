// torch.optim.RMSprop's step, operation by operation, then the clamp of WGAN:
//   g = (maximize ? -grad : grad) + weight_decay * param
//   square_avg = alpha * square_avg + (1 - alpha) * g^2
//   centered:  grad_avg += (1 - alpha) * (g - grad_avg),  avg = sqrt(square_avg - grad_avg^2) + eps
//   else:      avg = sqrt(square_avg) + eps
//   momentum:  momentum_buffer = momentum * momentum_buffer + g / avg,  param -= lr * momentum_buffer
//   else:      param -= lr * g / avg
//   param = min(max(param, -clip_value), clip_value)
//
// Source: Tieleman and Hinton 2012, lecture 6.5; Graves 2013 for the centered form. All arrays flat, in one memory order.
// Numerics: products and sums are rounded one by one, as by torch's separate operations; 16-bit tensors are rounded once,
// at the end, where torch rounds after every operation.

template <class S, bool Centered, bool Momentum>
FASTGAN_INLINE void rmsprop_range(const RmspropClipParams& p, int64_t begin, int64_t end) {
  using T = arithmetic_t<S>;
  S* param = static_cast<S*>(p.param) + begin;
  const S* grad = static_cast<const S*>(p.grad) + begin;
  S* square_avg = static_cast<S*>(p.square_avg) + begin;
  S* grad_avg = Centered ? static_cast<S*>(p.grad_avg) + begin : nullptr;
  S* buffer = Momentum ? static_cast<S*>(p.momentum_buffer) + begin : nullptr;
  const T sign = p.maximize ? T(-1) : T(1), decay = T(p.weight_decay);
  const T alpha = T(p.alpha), rest = T(1 - p.alpha), eps = T(p.eps), lr = T(-p.lr), momentum = T(p.momentum);
  const T clip = T(p.clip_value);
  const bool decays = p.weight_decay != 0, clips = p.clip_value >= 0;
  for_vectors<T>(end - begin, [&](int64_t i, auto k) FASTGAN_INLINED {
    vec<T> w = load(param + i, k), g = sign * load(grad + i, k);
    if (decays) g += decay * w;
    const vec<T> square = load(square_avg + i, k) * alpha + rest * g * g;
    store(square_avg + i, square, k);
    vec<T> variance = square;
    if constexpr (Centered) {
      const vec<T> old = load(grad_avg + i, k), mean = rest < T(0.5) ? old + rest * (g - old) : g - (g - old) * (T(1) - rest);
      store(grad_avg + i, mean, k);
      variance = square - mean * mean;
    }
    const vec<T> avg = sqrt(variance) + eps;
    if constexpr (Momentum) {
      const vec<T> velocity = load(buffer + i, k) * momentum + g / avg;
      store(buffer + i, velocity, k);
      w += lr * velocity;
    } else {
      w += lr * g / avg;
    }
    store(param + i, clips ? clamp(w, clip) : w, k);
  });
}

void rmsprop_clip(const RmspropClipParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    using S = decltype(element);
    const bool centered = p.grad_avg != nullptr, momentum = p.momentum_buffer != nullptr;
    if (centered && momentum) return rmsprop_range<S, true, true>(p, begin, end);
    if (centered) return rmsprop_range<S, true, false>(p, begin, end);
    if (momentum) return rmsprop_range<S, false, true>(p, begin, end);
    return rmsprop_range<S, false, false>(p, begin, end);
  });
}
