// Vectors of one capability, for simd_begin.h: loads and stores that convert 16-bit elements, and the few operations that
// the compilers' vector extension has no operator for. Arithmetic, comparison and `mask ? a : b` are written with operators.
//
//   vec<float>, vec<double>, vec<int32_t>, ...   FASTGAN_VECTOR_BYTES wide
//   S: element type in memory (float, bfloat16, float16, double);  T: type computed in (arithmetic_t<S>)

#define FASTGAN_INLINED __attribute__((always_inline))  // after a lambda's parameters
#define FASTGAN_INLINE static inline FASTGAN_INLINED

template <class T>
struct vec_of {
  typedef T type __attribute__((vector_size(FASTGAN_VECTOR_BYTES)));
};
template <class T>
using vec = typename vec_of<T>::type;
typedef uint16_t vec_u16 __attribute__((vector_size(FASTGAN_VECTOR_BYTES / 2)));  // as many as a vec<float> has

template <class T>
constexpr int lanes = FASTGAN_VECTOR_BYTES / sizeof(T);

template <class T>
FASTGAN_INLINE vec<T> broadcast(T value) {
  return value - vec<T>{};  // not value + 0, which would turn -0 into +0
}

// ---- load and store -------------------------------------------------------------------------------------------------

FASTGAN_INLINE vec<float> load(const float* p) {
  vec<float> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

FASTGAN_INLINE vec<double> load(const double* p) {
  vec<double> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

FASTGAN_INLINE vec<float> from_bfloat16(vec_u16 h) {
  return (vec<float>)(__builtin_convertvector(h, vec<uint32_t>) << 16);
}

// Round to nearest even; NaN stays NaN.
FASTGAN_INLINE vec_u16 to_bfloat16(vec<float> v) {
  const vec<uint32_t> bits = (vec<uint32_t>)v;
  const vec<uint32_t> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const vec<uint32_t> nan = vec<uint32_t>{} + 0x7fc0u;
  return __builtin_convertvector(v == v ? rounded : nan, vec_u16);
}

#if FASTGAN_VECTOR_BYTES == 64
FASTGAN_INLINE vec<float> from_float16(vec_u16 h) { return (vec<float>)_mm512_cvtph_ps((__m256i)h); }
FASTGAN_INLINE vec_u16 to_float16(vec<float> v) {
  return (vec_u16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif FASTGAN_VECTOR_BYTES == 32
FASTGAN_INLINE vec<float> from_float16(vec_u16 h) { return (vec<float>)_mm256_cvtph_ps((__m128i)h); }
FASTGAN_INLINE vec_u16 to_float16(vec<float> v) {
  return (vec_u16)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
// The exponent is moved by a multiplication with 2^112, which also normalises subnormals; infinity and NaN, whose exponent
// is all ones, are set by hand.
FASTGAN_INLINE vec<float> from_float16(vec_u16 h) {
  const vec<uint32_t> bits = __builtin_convertvector(h, vec<uint32_t>);
  const vec<uint32_t> magnitude = (bits & 0x7fffu) << 13;
  const vec<uint32_t> finite = (vec<uint32_t>)((vec<float>)magnitude * 0x1p112f);
  const vec<uint32_t> special = magnitude | 0x7f800000u;
  return (vec<float>)((magnitude >= 0x0f800000u ? special : finite) | ((bits & 0x8000u) << 16));
}
// Round to nearest even. Below 2^-14 the addition of 0.5 lets the float adder round at the last subnormal bit.
FASTGAN_INLINE vec_u16 to_float16(vec<float> v) {
  const vec<uint32_t> bits = (vec<uint32_t>)v;
  const vec<uint32_t> magnitude = bits & 0x7fffffffu;
  const vec<uint32_t> normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const vec<uint32_t> subnormal = (vec<uint32_t>)((vec<float>)magnitude + 0.5f) - 0x3f000000u;
  const vec<uint32_t> infinity = vec<uint32_t>{} + 0x7c00u;
  const vec<uint32_t> nan = vec<uint32_t>{} + 0x7e00u;
  vec<uint32_t> half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? infinity : half;
  half = magnitude > 0x7f800000u ? nan : half;
  return __builtin_convertvector(half | ((bits >> 16) & 0x8000u), vec_u16);
}
#endif

FASTGAN_INLINE vec_u16 load_bits(const void* p) {
  vec_u16 h;
  __builtin_memcpy(&h, p, sizeof h);
  return h;
}
FASTGAN_INLINE vec<float> load(const bfloat16* p) { return from_bfloat16(load_bits(p)); }
FASTGAN_INLINE vec<float> load(const float16* p) { return from_float16(load_bits(p)); }

FASTGAN_INLINE void store(float* p, vec<float> v) { __builtin_memcpy(p, &v, sizeof v); }
FASTGAN_INLINE void store(double* p, vec<double> v) { __builtin_memcpy(p, &v, sizeof v); }
FASTGAN_INLINE void store(bfloat16* p, vec<float> v) {
  const vec_u16 h = to_bfloat16(v);
  __builtin_memcpy(p, &h, sizeof h);
}
FASTGAN_INLINE void store(float16* p, vec<float> v) {
  const vec_u16 h = to_float16(v);
  __builtin_memcpy(p, &h, sizeof h);
}

// The first n elements, n < lanes; the other lanes are zero. Nothing past p[n - 1] is touched.
template <class S>
FASTGAN_INLINE vec<arithmetic_t<S>> load(const S* p, int64_t n) {
  S whole[lanes<arithmetic_t<S>>] = {};
  for (int64_t i = 0; i < n; i++) whole[i] = p[i];
  return load(whole);
}
template <class S>
FASTGAN_INLINE void store(S* p, vec<arithmetic_t<S>> v, int64_t n) {
  S whole[lanes<arithmetic_t<S>>];
  store(whole, v);
  for (int64_t i = 0; i < n; i++) p[i] = whole[i];
}
#if FASTGAN_VECTOR_BYTES == 64
FASTGAN_INLINE vec<float> load(const float* p, int64_t n) {
  return (vec<float>)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
FASTGAN_INLINE vec<float> load(const bfloat16* p, int64_t n) {
  return from_bfloat16((vec_u16)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
}
FASTGAN_INLINE vec<float> load(const float16* p, int64_t n) {
  return from_float16((vec_u16)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
}
FASTGAN_INLINE void store(float* p, vec<float> v, int64_t n) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
FASTGAN_INLINE void store(bfloat16* p, vec<float> v, int64_t n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)to_bfloat16(v));
}
FASTGAN_INLINE void store(float16* p, vec<float> v, int64_t n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)to_float16(v));
}
#endif

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// a * b + c: one rounding where the capability has the instruction, two in DEFAULT.
FASTGAN_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
#if FASTGAN_VECTOR_BYTES == 64
  return (vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FASTGAN_VECTOR_BYTES == 32
  return (vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
FASTGAN_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) { return a * b + c; }

FASTGAN_INLINE vec<float> sqrt(vec<float> a) {
#if FASTGAN_VECTOR_BYTES == 64
  return (vec<float>)_mm512_sqrt_ps((__m512)a);
#elif FASTGAN_VECTOR_BYTES == 32
  return (vec<float>)_mm256_sqrt_ps((__m256)a);
#else
  for (int i = 0; i < lanes<float>; i++) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}
FASTGAN_INLINE vec<double> sqrt(vec<double> a) {
  for (int i = 0; i < lanes<double>; i++) a[i] = __builtin_sqrt(a[i]);
  return a;
}

// The sum of all lanes, in double, in the order of the lanes.
FASTGAN_INLINE double sum(vec<float> a) {
  double total = 0;
  for (int i = 0; i < lanes<float>; i++) total += a[i];
  return total;
}
FASTGAN_INLINE double sum(vec<double> a) {
  double total = 0;
  for (int i = 0; i < lanes<double>; i++) total += a[i];
  return total;
}

// All ones in the first n lanes.
FASTGAN_INLINE vec<int32_t> first_lanes(float, int64_t n) {
  vec<int32_t> index;
  for (int i = 0; i < lanes<int32_t>; i++) index[i] = i;
  return index < (int32_t)n;
}
FASTGAN_INLINE vec<int64_t> first_lanes(double, int64_t n) {
  vec<int64_t> index;
  for (int i = 0; i < lanes<int64_t>; i++) index[i] = i;
  return index < n;
}

// Lane j is lane index[j] of a, or lane index[j] - lanes of b.
FASTGAN_INLINE vec<float> shuffle(vec<float> a, vec<float> b, vec<int32_t> index) {
#if defined(__clang__)
  vec<float> r;
  for (int j = 0; j < lanes<float>; j++) r[j] = index[j] < lanes<float> ? a[index[j]] : b[index[j] - lanes<float>];
  return r;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

// Rows become columns: rows[i][j] and rows[j][i] change places. Each stage interleaves row i with row i + half, which turns
// the address bits (row, column) by one place; after as many stages as a lane number has bits the two have swapped.
FASTGAN_INLINE void transpose(vec<float> (&rows)[lanes<float>]) {
  constexpr int n = lanes<float>, half = n / 2;
  vec<int32_t> low, high;  // lane 2j from lane j of the one, lane 2j + 1 from lane j of the other
  for (int j = 0; j < n; j++) {
    low[j] = j / 2 + (j % 2 ? n : 0);
    high[j] = low[j] + half;
  }
  for (int stage = 1; stage < n; stage *= 2) {
    vec<float> next[n];
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) {
      next[2 * i] = shuffle(rows[i], rows[i + half], low);
      next[2 * i + 1] = shuffle(rows[i], rows[i + half], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) rows[i] = next[i];
  }
}

// v limited to [-limit, limit]; NaN stays NaN.
template <class V, class T>
FASTGAN_INLINE V clamp(V v, T limit) {
  v = v < -limit ? V{} - limit : v;
  return v > limit ? V{} + limit : v;
}

// tanh to 2 ulp. With t = 2|x|: tanh = expm1(t) / (expm1(t) + 2), which keeps the small arguments exact;
// expm1(t) = 2^n expm1(r) + (2^n - 1) with t = n ln2 + r, |r| <= ln2 / 2, and expm1(r) = r + r^2 q(r), q of degree 5 fitted
// for the least relative error (2.4e-10).
FASTGAN_INLINE vec<float> tanh(vec<float> x) {
  const vec<uint32_t> sign = (vec<uint32_t>)x & 0x80000000u;
  vec<float> t = (vec<float>)((vec<uint32_t>)x & 0x7fffffffu);
  t = t > 9.5f ? broadcast(9.5f) : t;  // 1 - tanh(9.5) is below half an ulp; NaN passes
  t = t + t;
  const vec<float> round = broadcast(0x1.8p23f);  // adding it rounds to an integer
  const vec<float> n = fma(t, broadcast(0x1.715476p+0f), round) - round;
  vec<float> r = fma(n, broadcast(-0x1.62e4p-1f), t);  // ln2 in two parts: the first times n is exact
  r = fma(n, broadcast(-0x1.7f7d1cp-20f), r);
  vec<float> q = fma(r, broadcast(0x1.a19728p-13f), broadcast(0x1.6d7580p-10f));
  q = fma(q, r, broadcast(0x1.111098p-7f));
  q = fma(q, r, broadcast(0x1.5554acp-5f));
  q = fma(q, r, broadcast(0x1.555556p-3f));
  q = fma(q, r, broadcast(0.5f));
  const vec<float> p = fma(r * r, q, r);
  const vec<float> power = (vec<float>)((__builtin_convertvector(n, vec<int32_t>) + 127) << 23);
  const vec<float> e = fma(power, p, power - 1.0f);
  return (vec<float>)((vec<uint32_t>)(e / (e + 2.0f)) | sign);
}
FASTGAN_INLINE vec<double> tanh(vec<double> x) {
  for (int i = 0; i < lanes<double>; i++) x[i] = __builtin_tanh(x[i]);
  return x;
}

// ---- activations ----------------------------------------------------------------------------------------------------

// act(u). NaN passes through each of them, as in torch.
template <Activation A, class V, class T>
FASTGAN_INLINE V activate(V u, T negative_slope) {
  if constexpr (A == Activation::Relu) return u < T(0) ? V{} : u;
  if constexpr (A == Activation::LeakyRelu) return u > T(0) ? u : u * negative_slope;
  if constexpr (A == Activation::Tanh) return tanh(u);
  return u;
}

// g * act'. `at` is the activation's argument or its output for the two ReLUs (their signs agree), its output for tanh.
template <Activation A, class V, class T>
FASTGAN_INLINE V activation_gradient(V g, V at, T negative_slope) {
  if constexpr (A == Activation::Relu) return at <= T(0) ? V{} : g;
  if constexpr (A == Activation::LeakyRelu) return at > T(0) ? g : g * negative_slope;
  if constexpr (A == Activation::Tanh) return g * (T(1) - at * at);
  return g;
}

// ---- from run-time values to template arguments ---------------------------------------------------------------------

// Calls f(S{}) with the storage type of `dtype`; double exists in DEFAULT only.
template <class F>
FASTGAN_INLINE void with_dtype(DType dtype, F f) {
  switch (dtype) {
    case DType::Float32: return f(float{});
    case DType::BFloat16: return f(bfloat16{});
    case DType::Float16: return f(float16{});
    case DType::Float64:
#if FASTGAN_VECTOR_BYTES == 16
      return f(double{});
#else
      return;
#endif
  }
}

template <Activation A>
struct activation_tag {
  static constexpr Activation value = A;
};

// Calls f(activation_tag<A>{}).
template <class F>
FASTGAN_INLINE void with_activation(Activation activation, F f) {
  switch (activation) {
    case Activation::None: return f(activation_tag<Activation::None>{});
    case Activation::Relu: return f(activation_tag<Activation::Relu>{});
    case Activation::LeakyRelu: return f(activation_tag<Activation::LeakyRelu>{});
    case Activation::Tanh: return f(activation_tag<Activation::Tanh>{});
  }
}

// ---- loops ----------------------------------------------------------------------------------------------------------

// A step of a loop is `whole` or, at the end of a range, a number of elements; load, store and keep take either.
struct whole {};
template <class S>
FASTGAN_INLINE vec<arithmetic_t<S>> load(const S* p, whole) {
  return load(p);
}
template <class S, class V>
FASTGAN_INLINE void store(S* p, V v, whole) {
  store(p, v);
}

// v with the lanes past the end of the range set to zero.
template <class V>
FASTGAN_INLINE V keep(V v, whole) {
  return v;
}
template <class V>
FASTGAN_INLINE V keep(V v, int64_t n) {
  return first_lanes(v[0], n) ? v : V{};
}

// Calls body(i, step) for the vectors of [0, size).
template <class T, class F>
FASTGAN_INLINE void for_vectors(int64_t size, F body) {
  int64_t i = 0;
  for (; i + lanes<T> <= size; i += lanes<T>) body(i, whole{});
  if (i < size) body(i, size - i);
}

// The same, with body(i, step, a): a cycles through 0..3 and names an accumulator, so that additions do not wait in line.
template <class T, class F>
FASTGAN_INLINE void for_vectors4(int64_t size, F body) {
  int64_t i = 0;
  for (; i + 4 * lanes<T> <= size; i += 4 * lanes<T>) {
    body(i, whole{}, 0);
    body(i + lanes<T>, whole{}, 1);
    body(i + 2 * lanes<T>, whole{}, 2);
    body(i + 3 * lanes<T>, whole{}, 3);
  }
  for (; i + lanes<T> <= size; i += lanes<T>) body(i, whole{}, 0);
  if (i < size) body(i, size - i, 1);
}
