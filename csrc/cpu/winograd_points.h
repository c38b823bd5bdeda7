// The one-dimensional transforms of F(4, 2) at the points {0, 1/2, -1, 2, infinity}, on vectors, for winograd_impl.h.
//
//   values(x)       the 5 values of x0 + x1 t + x2 t^2 + x3 t^3
//   weights(g)      the 5 values of g0 + g1 t, scaled by {1, 8/9, 1/9, 1/18, 1}: the factors that interpolation would need
//   interpolate(e)  c0..c4 of the polynomial whose values, scaled so, are e
// and the transpose of each. All coefficients of interpolate are multiples of 1/2: it rounds little.

using V = vec<float>;

FASTGAN_INLINE void values(const V (&x)[4], V (&e)[5]) {
  e[0] = x[0];
  e[1] = fma(broadcast(0.5f), fma(broadcast(0.5f), fma(broadcast(0.5f), x[3], x[2]), x[1]), x[0]);
  e[2] = (x[0] + x[2]) - (x[1] + x[3]);
  e[3] = fma(broadcast(2.0f), fma(broadcast(4.0f), x[3], x[1]), fma(broadcast(4.0f), x[2], x[0]));
  e[4] = x[3];
}

FASTGAN_INLINE void values_transposed(const V (&e)[5], V (&x)[4]) {
  x[0] = (e[0] + e[1]) + (e[2] + e[3]);
  x[1] = fma(broadcast(2.0f), e[3], fma(broadcast(0.5f), e[1], -e[2]));
  x[2] = fma(broadcast(4.0f), e[3], fma(broadcast(0.25f), e[1], e[2]));
  x[3] = fma(broadcast(8.0f), e[3], fma(broadcast(0.125f), e[1], e[4] - e[2]));
}

FASTGAN_INLINE void weights(V g0, V g1, V (&u)[5]) {
  u[0] = g0;
  u[1] = broadcast(8.0f / 9) * fma(broadcast(0.5f), g1, g0);
  u[2] = broadcast(1.0f / 9) * (g0 - g1);
  u[3] = broadcast(1.0f / 18) * fma(broadcast(2.0f), g1, g0);
  u[4] = g1;
}

FASTGAN_INLINE void weights_transposed(const V (&u)[5], V& g0, V& g1) {
  const V half = broadcast(8.0f / 9) * u[1], minus = broadcast(1.0f / 9) * u[2], two = broadcast(1.0f / 18) * u[3];
  g0 = (u[0] + half) + (minus + two);
  g1 = fma(broadcast(0.5f), half, u[4]) + fma(broadcast(2.0f), two, -minus);
}

// c1, c2, c3; c0 = e0 and c4 = e4.
FASTGAN_INLINE void interpolate_inner(const V (&e)[5], V& c1, V& c2, V& c3) {
  c1 = fma(broadcast(2.0f), e[1] - e[2], fma(broadcast(-1.5f), e[0], e[4]) - e[3]);
  c2 = fma(broadcast(5.0f), e[2], fma(broadcast(-1.5f), e[0] + e[4], e[1] + e[3]));
  c3 = fma(broadcast(2.0f), e[3] - e[2], fma(broadcast(-1.5f), e[4], e[0]) - e[1]);
}

FASTGAN_INLINE void interpolate_transposed(const V (&c)[5], V (&e)[5]) {
  e[0] = fma(broadcast(-1.5f), c[1] + c[2], c[0] + c[3]);
  e[1] = fma(broadcast(2.0f), c[1], c[2] - c[3]);
  e[2] = fma(broadcast(5.0f), c[2], broadcast(-2.0f) * (c[1] + c[3]));
  e[3] = fma(broadcast(2.0f), c[3], c[2] - c[1]);
  e[4] = fma(broadcast(-1.5f), c[2] + c[3], c[1] + c[4]);
}

// The first of the two taps that phase `parity` of an axis uses; the second is two further.
constexpr int first_tap(int parity) { return 1 - parity; }
