// With u = (z - mean) * scale + beta, g = grad_y * act'(u) and everything per channel:
//   reduce:  sum_g = sum g,  sum_g_centered = sum g * (z - mean)
//   elemt:   grad_z = scale * g - (offset + slope_z * (z - mean))
//
// grad_y, z, y, grad_z: (N, C, S), see image.h; per-channel arguments: (channel_period); sums: (parts, C), see image_tiles.h.
// g is recomputed in the second pass: reading grad_y and z twice costs less than writing g and reading it again.
// Numerics: u by the forward pass's instructions; float lanes over at most 4096 elements (64 rows in channels-last), double
// beyond.
#include "cpu/elementwise.h"

// g of the elements at i; centered = z - mean there.
template <class S, Activation A, class Step>
FASTGAN_INLINE vec<arithmetic_t<S>> masked_gradient(const BnActBackwardParams& p, int64_t i, Step k,
                                                    vec<arithmetic_t<S>> centered, vec<arithmetic_t<S>> scale,
                                                    vec<arithmetic_t<S>> beta) {
  using T = arithmetic_t<S>;
  const vec<T> g = load(static_cast<const S*>(p.grad_y) + i, k);
  if constexpr (A == Activation::None) return g;
  if constexpr (A == Activation::Tanh) return activation_gradient<A>(g, load(static_cast<const S*>(p.y) + i, k), T(0));
  return activation_gradient<A>(g, fma(centered, scale, beta), T(p.negative_slope));
}

// ---- reduce ---------------------------------------------------------------------------------------------------------

template <class S, Activation A>
FASTGAN_INLINE void reduce_channel(const BnActBackwardParams& p, int64_t part, int64_t c, int64_t parts) {
  using T = arithmetic_t<S>;
  const S* z = static_cast<const S*>(p.z);
  const vec<T> mean = broadcast(static_cast<const T*>(p.mean)[c]);
  const vec<T> scale = broadcast(static_cast<const T*>(p.scale)[c]);
  const vec<T> beta = broadcast(static_cast<const T*>(p.beta)[c]);
  const int64_t size = p.shape.per_channel(), pixels = p.shape.pixels;
  int64_t at = part * size / parts;
  const int64_t last = (part + 1) * size / parts;
  int64_t n = at / pixels, offset = at % pixels;
  double sum_g = 0, sum_g_centered = 0;
  while (at < last) {
    vec<T> s1[4] = {}, s2[4] = {};
    const int64_t chunk = at_most(at + kChunkElements, last);
    while (at < chunk) {  // the pieces of planes that the chunk is made of
      const int64_t length = at_most(pixels - offset, chunk - at), first = (n * p.shape.channels + c) * pixels + offset;
      for_vectors4<T>(length, [&](int64_t i, auto k, int a) FASTGAN_INLINED {
        const vec<T> centered = keep(load(z + first + i, k) - mean, k);
        const vec<T> g = masked_gradient<S, A>(p, first + i, k, centered, scale, beta);
        s1[a] += g;
        s2[a] = fma(g, centered, s2[a]);
      });
      at += length;
      offset += length;
      if (offset == pixels) {
        offset = 0;
        n++;
      }
    }
    sum_g += sum((s1[0] + s1[1]) + (s1[2] + s1[3]));
    sum_g_centered += sum((s2[0] + s2[1]) + (s2[2] + s2[3]));
  }
  p.sum_g[part * p.shape.channels + c] = sum_g;
  p.sum_g_centered[part * p.shape.channels + c] = sum_g_centered;
}

template <class S, Activation A>
FASTGAN_INLINE void reduce_part(const BnActBackwardParams& p, int64_t part, int64_t parts) {
  using T = arithmetic_t<S>;
  constexpr int64_t kRows = 64;  // added up in float before double takes over
  const S* z = static_cast<const S*>(p.z);
  const T* mean = static_cast<const T*>(p.mean);
  const T* scale = static_cast<const T*>(p.scale);
  const T* beta = static_cast<const T*>(p.beta);
  const int64_t channels = p.shape.channels, period = channel_period(p.shape), size = p.shape.per_channel();
  const int64_t first = part * size / parts * channels, last = (part + 1) * size / parts * channels;
  double* sum_g = p.sum_g + part * channels;
  double* sum_g_centered = p.sum_g_centered + part * channels;
  for (int64_t c = 0; c < channels; c++) sum_g[c] = sum_g_centered[c] = 0;
  T s1[kColumns], s2[kColumns];
  for (int64_t column = 0; column < period; column += kColumns) {
    const int64_t widest = at_most(kColumns, period - column);
    for (int64_t row = first; row < last;) {
      for (int64_t j = 0; j < widest; j++) s1[j] = s2[j] = 0;
      for (int64_t r = 0; r < kRows && row < last; r++, row += period) {
        for_vectors<T>(at_most(widest, last - row - column), [&](int64_t j, auto k) FASTGAN_INLINED {
          const int64_t i = row + column + j, m = column + j;
          const vec<T> centered = load(z + i, k) - load(mean + m, k);
          const vec<T> g = masked_gradient<S, A>(p, i, k, centered, load(scale + m, k), load(beta + m, k));
          store(s1 + j, load(s1 + j, k) + g, k);
          store(s2 + j, fma(g, centered, load(s2 + j, k)), k);
        });
      }
      for (int64_t j = 0, c = column % channels; j < widest; j++, c = c + 1 == channels ? 0 : c + 1) {
        sum_g[c] += s1[j];
        sum_g_centered[c] += s2[j];
      }
    }
  }
}

void bn_act_backward_reduce(const BnActBackwardParams& p, int64_t begin, int64_t end) {
  const int64_t parts = ReductionTiles(p.shape).parts;
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    with_activation(p.activation, [&](auto activation) FASTGAN_INLINED {
      using S = decltype(element);
      constexpr Activation A = decltype(activation)::value;
      for (int64_t unit = begin; unit < end; unit++) {
        if (p.shape.layout == Layout::ChannelsFirst) {
          reduce_channel<S, A>(p, unit / p.shape.channels, unit % p.shape.channels, parts);
        } else {
          reduce_part<S, A>(p, unit, parts);
        }
      }
    });
  });
}

// ---- elemt ----------------------------------------------------------------------------------------------------------

template <class S, Activation A, class Tag>
FASTGAN_INLINE void elemt_units(const BnActBackwardParams& p, Tag layout, int64_t begin, int64_t end) {
  using T = arithmetic_t<S>;
  const S* z = static_cast<const S*>(p.z);
  S* grad_z = static_cast<S*>(p.grad_z);
  const T* mean = static_cast<const T*>(p.mean);
  const T* scale = static_cast<const T*>(p.scale);
  const T* beta = static_cast<const T*>(p.beta);
  const T* offset = static_cast<const T*>(p.offset);
  const T* slope_z = static_cast<const T*>(p.slope_z);
  for_units<T>(p.shape, layout, begin, end, [&](int64_t i, auto k, int64_t j) FASTGAN_INLINED {
    const vec<T> centered = load(z + i, k) - of_channel(layout, mean, j, k), a = of_channel(layout, scale, j, k);
    const vec<T> g = masked_gradient<S, A>(p, i, k, centered, a, of_channel(layout, beta, j, k));
    const vec<T> correction = fma(centered, of_channel(layout, slope_z, j, k), of_channel(layout, offset, j, k));
    store(grad_z + i, a * g - correction, k);
  });
}

void bn_act_backward_elemt(const BnActBackwardParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    with_activation(p.activation, [&](auto activation) FASTGAN_INLINED {
      with_layout(p.shape.layout, [&](auto layout) FASTGAN_INLINED {
        elemt_units<decltype(element), decltype(activation)::value>(p, layout, begin, end);
      });
    });
  });
}
