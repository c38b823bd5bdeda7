// y = act((z - mean[c]) * scale[c] + beta[c]).
//
// z, y: (N, C, S), see image.h; mean, scale, beta: (channel_period), see image_tiles.h. Element by element, so y may be z.
// Numerics: a subtraction (a mean far from zero costs no digits) and a fused multiply-add in the arithmetic type, then one
// rounding to the storage type. bn_act_backward computes the activation's argument by the same instructions: the same mask.
#include "cpu/elementwise.h"

template <class S, Activation A, class Tag>
FASTGAN_INLINE void bn_act_units(const BnActParams& p, Tag layout, int64_t begin, int64_t end) {
  using T = arithmetic_t<S>;
  const S* z = static_cast<const S*>(p.z);
  S* y = static_cast<S*>(p.y);
  const T* mean = static_cast<const T*>(p.mean);
  const T* scale = static_cast<const T*>(p.scale);
  const T* beta = static_cast<const T*>(p.beta);
  const T slope = T(p.negative_slope);
  for_units<T>(p.shape, layout, begin, end, [&](int64_t i, auto k, int64_t j) FASTGAN_INLINED {
    const vec<T> centered = load(z + i, k) - of_channel(layout, mean, j, k);
    const vec<T> u = fma(centered, of_channel(layout, scale, j, k), of_channel(layout, beta, j, k));
    store(y + i, activate<A>(u, slope), k);
  });
}

void bn_act(const BnActParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    with_activation(p.activation, [&](auto activation) FASTGAN_INLINED {
      with_layout(p.shape.layout, [&](auto layout) FASTGAN_INLINED {
        bn_act_units<decltype(element), decltype(activation)::value>(p, layout, begin, end);
      });
    });
  });
}
