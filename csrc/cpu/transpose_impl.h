// to[n][c][r] = from[n][r][c], by squares of one vector's width that are turned over in registers: every cache line that is
// touched is read or written whole. Nothing is computed, so any 4-byte pattern passes unchanged.

// The square at (row, column), of which `rows` x `columns` lie inside the matrix.
FASTGAN_INLINE void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
                                     int64_t columns) {
  constexpr int n = lanes<float>;
  vec<float> square[n];
  if (rows == n && columns == n) {
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) square[i] = load(from + i * from_stride);
    transpose(square);
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) store(to + i * to_stride, square[i]);
    return;
  }
  for (int i = 0; i < n; i++) square[i] = i < rows ? load(from + i * from_stride, at_most(columns, n - 1)) : vec<float>{};
  if (columns == n) {
    for (int i = 0; i < rows; i++) square[i] = load(from + i * from_stride);
  }
  transpose(square);
  for (int i = 0; i < columns; i++) {
    if (rows == n) {
      store(to + i * to_stride, square[i]);
    } else {
      store(to + i * to_stride, square[i], rows);
    }
  }
}

void transpose_matrices(const TransposeParams& p, int64_t begin, int64_t end) {
  constexpr int64_t n = lanes<float>;
  const int64_t pieces = ceil_div(p.columns, kTransposeColumns);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t sample = unit / pieces, first = unit % pieces * kTransposeColumns;
    const int64_t last = at_most(first + kTransposeColumns, p.columns);
    const float* from = p.from + sample * p.rows * p.columns;
    float* to = p.to + sample * p.rows * p.columns;
    for (int64_t r = 0; r < p.rows; r += n) {
      for (int64_t c = first; c < last; c += n) {
        transpose_square(from + r * p.columns + c, p.columns, to + c * p.rows + r, p.rows, at_most(n, p.rows - r),
                         at_most(n, last - c));
      }
    }
  }
}
