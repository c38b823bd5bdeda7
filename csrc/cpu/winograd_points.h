// The one-dimensional transforms of F(4, Taps) on vectors, for winograd_impl.h: 4 values, 2 or 3 taps, 3 + Taps points.
//
//   values(x)       the values of x0 + x1 t + x2 t^2 + x3 t^3 at the points
//   weights(g)      those of the polynomial of the taps, scaled by the factors that interpolation would need
//   interpolate(e)  the coefficients c of the polynomial whose values, scaled so, are e
// and the transpose of each. At 0 and infinity, the first point and the last, values are coefficients: c[0] = e[0], and
// the last alike. All coefficients of interpolate are multiples of 1/4, hence exact: it rounds little.

using V = vec<float>;

template <int Taps>
struct Points;

// {0, 1/2, -1, 2, infinity}; weights are scaled by {1, 8/9, 1/9, 1/18, 1}.
template <>
struct Points<2> {
  static constexpr int count = 5;

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

  FASTGAN_INLINE void weights(const V (&g)[2], V (&u)[5]) {
    u[0] = g[0];
    u[1] = broadcast(8.0f / 9) * fma(broadcast(0.5f), g[1], g[0]);
    u[2] = broadcast(1.0f / 9) * (g[0] - g[1]);
    u[3] = broadcast(1.0f / 18) * fma(broadcast(2.0f), g[1], g[0]);
    u[4] = g[1];
  }

  FASTGAN_INLINE void weights_transposed(const V (&u)[5], V (&g)[2]) {
    const V half = broadcast(8.0f / 9) * u[1], minus = broadcast(1.0f / 9) * u[2], two = broadcast(1.0f / 18) * u[3];
    g[0] = (u[0] + half) + (minus + two);
    g[1] = fma(broadcast(0.5f), half, u[4]) + fma(broadcast(2.0f), two, -minus);
  }

  FASTGAN_INLINE void interpolate(const V (&e)[5], V (&c)[5]) {
    c[0] = e[0];
    c[1] = fma(broadcast(2.0f), e[1] - e[2], fma(broadcast(-1.5f), e[0], e[4]) - e[3]);
    c[2] = fma(broadcast(5.0f), e[2], fma(broadcast(-1.5f), e[0] + e[4], e[1] + e[3]));
    c[3] = fma(broadcast(2.0f), e[3] - e[2], fma(broadcast(-1.5f), e[4], e[0]) - e[1]);
    c[4] = e[4];
  }

  FASTGAN_INLINE void interpolate_transposed(const V (&c)[5], V (&e)[5]) {
    e[0] = fma(broadcast(-1.5f), c[1] + c[2], c[0] + c[3]);
    e[1] = fma(broadcast(2.0f), c[1], c[2] - c[3]);
    e[2] = fma(broadcast(5.0f), c[2], broadcast(-2.0f) * (c[1] + c[3]));
    e[3] = fma(broadcast(2.0f), c[3], c[2] - c[1]);
    e[4] = fma(broadcast(-1.5f), c[2] + c[3], c[1] + c[4]);
  }
};

// {0, 1/2, -1/2, 2, -2, infinity}; weights are scaled by {1, -8/15, -8/15, 1/30, 1/30, 1}. Pairs of opposite points share
// their even and odd parts.
template <>
struct Points<3> {
  static constexpr int count = 6;

  FASTGAN_INLINE void values(const V (&x)[4], V (&e)[6]) {
    const V even = fma(broadcast(0.25f), x[2], x[0]), odd = fma(broadcast(0.25f), x[3], x[1]);
    const V even2 = fma(broadcast(4.0f), x[2], x[0]), odd2 = fma(broadcast(4.0f), x[3], x[1]);
    e[0] = x[0];
    e[1] = fma(broadcast(0.5f), odd, even);
    e[2] = fma(broadcast(-0.5f), odd, even);
    e[3] = fma(broadcast(2.0f), odd2, even2);
    e[4] = fma(broadcast(-2.0f), odd2, even2);
    e[5] = x[3];
  }

  FASTGAN_INLINE void values_transposed(const V (&e)[6], V (&x)[4]) {
    const V sum = e[1] + e[2], difference = e[1] - e[2], sum2 = e[3] + e[4], difference2 = e[3] - e[4];
    x[0] = e[0] + (sum + sum2);
    x[1] = fma(broadcast(2.0f), difference2, broadcast(0.5f) * difference);
    x[2] = fma(broadcast(4.0f), sum2, broadcast(0.25f) * sum);
    x[3] = fma(broadcast(8.0f), difference2, fma(broadcast(0.125f), difference, e[5]));
  }

  FASTGAN_INLINE void weights(const V (&g)[3], V (&u)[6]) {
    const V even = broadcast(-8.0f / 15) * fma(broadcast(0.25f), g[2], g[0]), odd = broadcast(-4.0f / 15) * g[1];
    const V even2 = broadcast(1.0f / 30) * fma(broadcast(4.0f), g[2], g[0]), odd2 = broadcast(1.0f / 15) * g[1];
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = even2 + odd2;
    u[4] = even2 - odd2;
    u[5] = g[2];
  }

  FASTGAN_INLINE void weights_transposed(const V (&u)[6], V (&g)[3]) {
    const V sum = broadcast(-8.0f / 15) * (u[1] + u[2]), difference = broadcast(-4.0f / 15) * (u[1] - u[2]);
    const V sum2 = broadcast(1.0f / 30) * (u[3] + u[4]), difference2 = broadcast(1.0f / 15) * (u[3] - u[4]);
    g[0] = u[0] + (sum + sum2);
    g[1] = difference + difference2;
    g[2] = fma(broadcast(4.0f), sum2, fma(broadcast(0.25f), sum, u[5]));
  }

  FASTGAN_INLINE void interpolate(const V (&e)[6], V (&c)[6]) {
    const V sum = e[1] + e[2], difference = e[1] - e[2], sum2 = e[3] + e[4], difference2 = e[3] - e[4];
    c[0] = e[0];
    c[1] = fma(broadcast(-2.0f), difference, fma(broadcast(-0.5f), difference2, e[5]));
    c[2] = fma(broadcast(-4.0f), sum, fma(broadcast(-0.25f), sum2, broadcast(-4.25f) * e[0]));
    c[3] = fma(broadcast(2.0f), difference2, fma(broadcast(0.5f), difference, broadcast(-4.25f) * e[5]));
    c[4] = e[0] + (sum + sum2);
    c[5] = e[5];
  }

  FASTGAN_INLINE void interpolate_transposed(const V (&c)[6], V (&e)[6]) {
    const V even = fma(broadcast(-4.0f), c[2], c[4]), odd = fma(broadcast(0.5f), c[3], broadcast(-2.0f) * c[1]);
    const V even2 = fma(broadcast(-0.25f), c[2], c[4]), odd2 = fma(broadcast(2.0f), c[3], broadcast(-0.5f) * c[1]);
    e[0] = fma(broadcast(-4.25f), c[2], c[0] + c[4]);
    e[1] = even + odd;
    e[2] = even - odd;
    e[3] = even2 + odd2;
    e[4] = even2 - odd2;
    e[5] = fma(broadcast(-4.25f), c[3], c[1] + c[5]);
  }
};
