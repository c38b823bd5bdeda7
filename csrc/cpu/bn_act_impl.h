// y = act(z * scale[c] + shift[c]).
//
// z, y: (N, C, S), see image.h; scale, shift: (channel_period), see image_tiles.h. Element by element, so y may be z.
// Numerics: one fused multiply-add in the arithmetic type, one rounding to the storage type. bn_act_backward computes the
// activation's argument by the same instruction, hence the same mask.
#include "cpu/elementwise.h"

template <class S, Activation A, class Tag>
FASTGAN_INLINE void bn_act_units(const BnActParams& p, Tag layout, int64_t begin, int64_t end) {
  using T = arithmetic_t<S>;
  const S* z = static_cast<const S*>(p.z);
  S* y = static_cast<S*>(p.y);
  const T* scale = static_cast<const T*>(p.scale);
  const T* shift = static_cast<const T*>(p.shift);
  const T slope = T(p.negative_slope);
  for_units<T>(p.shape, layout, begin, end, [&](int64_t i, auto k, int64_t j) FASTGAN_INLINED {
    const vec<T> u = fma(load(z + i, k), of_channel(layout, scale, j, k), of_channel(layout, shift, j, k));
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
