// The matrix product of the Winograd kernels: c (rows x two vectors) = or += a (rows x depth) * b (depth x two vectors), with
// rows enough to fill the registers. Sums over one depth start at zero and are added to c at the end: that costs nothing and
// keeps the error of long sums near that of one depth.
//
//   a[i][k] at a + i * Ai + k * Ak;  b[k] at b + k * bk;  c[i] at c + i * Ci
// While it runs, it asks the cache for one line of each of next_a and next_b a step: the panels that come next.

constexpr int kRows = FASTGAN_VECTOR_BYTES == 64 ? 14 : 6;  // 2 * kRows accumulators, 2 vectors of b, one of a

template <int Rows, int Ai, int Ak, int Bk, int Ci>
static __attribute__((noinline)) void multiply(int64_t depth, const float* __restrict a, const float* __restrict b,
                                               float* __restrict c, bool add, const float* next_a, const float* next_b) {
  constexpr int n = lanes<float>;
  V left[Rows], right[Rows];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++) left[i] = right[i] = V{};
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; k++) {
    const V b0 = load(b + k * Bk), b1 = load(b + k * Bk + n);
    __builtin_prefetch(next_a + k * 16);
    __builtin_prefetch(next_b + k * 16);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
      const V factor = broadcast(a[i * Ai + k * Ak]);
      left[i] = fma(factor, b0, left[i]);
      right[i] = fma(factor, b1, right[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++) {
    float* to = c + i * Ci;
    store(to, add ? left[i] + load(to) : left[i]);
    store(to + n, add ? right[i] + load(to + n) : right[i]);
  }
}

template <int Ai, int Ak, int Bk, int Ci>
FASTGAN_INLINE void multiply_rows(int64_t rows, int64_t depth, const float* a, const float* b, float* c, bool add,
                                  const float* next_a, const float* next_b) {
  switch (rows) {
#define FASTGAN_ROWS(n) \
  case n: return multiply<n, Ai, Ak, Bk, Ci>(depth, a, b, c, add, next_a, next_b);
    FASTGAN_ROWS(1)
    FASTGAN_ROWS(2)
    FASTGAN_ROWS(3)
    FASTGAN_ROWS(4)
    FASTGAN_ROWS(5)
    FASTGAN_ROWS(6)
#if FASTGAN_VECTOR_BYTES == 64
    FASTGAN_ROWS(7)
    FASTGAN_ROWS(8)
    FASTGAN_ROWS(9)
    FASTGAN_ROWS(10)
    FASTGAN_ROWS(11)
    FASTGAN_ROWS(12)
    FASTGAN_ROWS(13)
    FASTGAN_ROWS(14)
#endif
#undef FASTGAN_ROWS
  }
}

constexpr int kLinesOfB = 2 * FASTGAN_VECTOR_BYTES / 64 > 0 ? 2 * FASTGAN_VECTOR_BYTES / 64 : 1;  // cache lines a step

// Any number of rows, in groups of nearly equal size. Each group prefetches its share of the next panels.
template <int Ai, int Ak, int Bk, int Ci>
FASTGAN_INLINE void multiply_panel(int64_t rows, int64_t depth, const float* a, const float* b, float* c, bool add,
                                   const float* next_a, const float* next_b) {
  const int64_t groups = ceil_div(rows, kRows), least = rows / groups, larger = rows % groups;
  for (int64_t g = 0; g < groups; g++) {
    const int64_t count = least + (g < larger);
    multiply_rows<Ai, Ak, Bk, Ci>(count, depth, a, b, c, add, next_a, next_b);
    a += count * Ai;
    c += count * Ci;
    next_a += depth * 16;
    next_b = g + 1 < kLinesOfB ? next_b + depth * 16 : b;
  }
}
