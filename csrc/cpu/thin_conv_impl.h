// With L a large image, S a small one and w[s][c][ky][kx] the weight (zero outside the images):
//   up:    L[n][y][x][c] = sum over 2i - 1 + ky = y, 2j - 1 + kx = x and s of S[n][i][j][s] * w[s][c][ky][kx]
//   down:  S[n][i][j][s] = sum over ky, kx and c of L[n][2i - 1 + ky][2j - 1 + kx][c] * w[s][c][ky][kx]
//   sums:  dw[s][c][ky][kx] = sum over n, i, j of S[n][i][j][s] * L[n][2i - 1 + ky][2j - 1 + kx][c]
// up is the transposed convolution and the gradient of the other one's input; down the reverse; the sums are the
// gradient of the weight of both. Shapes and memory orders: thin_conv.h.
//
// One row of the small image at a time, so that everything but the images stays in L1. up multiplies the row (W, Cs) by
// (Cs, 16 Cl) and adds taps that meet in a large pixel, of this row and of the one above: for RGB, 48 columns are whole
// vectors, where the 12 of a direct convolution are not. down multiplies windows of four large rows by (16 Cl, Cs). A
// gradient is taken through its activation while its row is read, once for both products that use it.
//
// Numerics: inputs as float; products summed in float over at most 128 channels (up), 16 Cl taps (down) or kFloatPixels
// pixels (sums), then in float over 4 taps and blocks of channels (up) or in double, part by part (sums).
#include "cpu/thin_conv_rows.h"

constexpr int64_t kFloatPixels = 512;  // or one row, if that is longer

// Calls f(count<Cl>{}).
template <class F>
FASTGAN_INLINE void with_large_channels(int64_t channels, F f) {
  switch (channels) {
    case 1: return f(count<1>{});
    case 2: return f(count<2>{});
    case 3: return f(count<3>{});
    case 4: return f(count<4>{});
  }
}

// A row of the small image in float. For the sums, vectors of it may reach past the end of a pixel, hence the copy.
template <class S>
FASTGAN_INLINE const float* small_row(const ThinConvParams& p, const ThinConvScratch& m, int64_t row) {
  const int64_t size = p.shape.small_row();
  if constexpr (sizeof(S) == sizeof(float)) {
    const bool whole_vectors = p.shape.small_channels % lanes<float> == 0;
    if (p.small.activation == Activation::None && (whole_vectors || p.weight_sums == nullptr)) {
      return static_cast<const float*>(p.small.value) + row * size;
    }
  }
  read_row<S>(p.small, row * size, size, m.small_row);
  return m.small_row;
}

// What follows element `first` of an image.
template <class S>
FASTGAN_INLINE NextRow next_row(const ThinConvImage& image, int64_t first) {
  if (image.value == nullptr) return {};
  const void* output = image.activation == Activation::None ? image.value : image.output;
  const int64_t bytes = first * int64_t(sizeof(S));
  return {static_cast<const char*>(image.value) + bytes, static_cast<const char*>(output) + bytes, sizeof(S)};
}

// Rows 2i - 1 to 2i + 2 of the large image n, `rows`, as i grows by one.
template <class S>
struct LargeWindow {
  const float* rows[4];
  int64_t next = 0;  // the first row not read

  FASTGAN_INLINED void move(const ThinConvParams& p, const ThinConvScratch& m, int64_t n, int64_t i) {
    const int64_t height = 2 * p.shape.height, size = p.shape.large_row();
    for (int64_t y = 2 * i - 1; y < 2 * i + 3; y++) {
      const bool inside = y >= 0 && y < height;
      float* row = m.large_rows[(y + 1) % 4];
      if (inside && y >= next) read_row<S>(p.large, (n * height + y) * size, size, row + p.shape.large_channels);
      rows[y + 1 - 2 * i] = inside ? row : m.zeros;
    }
    next = 2 * i + 3;
    const NextRow ahead = next_row<S>(p.large, (n * height + next) * size);
    for (int64_t e = 0; e < 2 * size; e += 64 / int64_t(sizeof(S))) ahead.fetch(e);
  }
};

// Writes rows of the large result, above and below the corners between row i - 1 (`upper`) and row i (`lower`).
template <class S>
FASTGAN_INLINE void write_corners(const ThinConvParams& p, const ThinConvScratch& m, int64_t n, int64_t i,
                                  const float* upper, const float* lower, bool above, bool below) {
  const ThinConvShape& s = p.shape;
  with_large_channels(s.large_channels, [&](auto channels) FASTGAN_INLINED {
    up_corners<decltype(channels)::value>(s, upper, lower, m.corners);
  });
  const int64_t size = s.large_row(), y = n * 2 * s.height + 2 * i - 1;
  if (above) write_rows<S>(p, m.corners[0] + s.large_channels, size, m.bias_row, 1, size, y * size);
  if (below) write_rows<S>(p, m.corners[1] + s.large_channels, size, m.bias_row, 1, size, (y + 1) * size);
}

FASTGAN_INLINE void multiply_up(const ThinConvParams& p, const float* small, float* taps, NextRow next) {
  with_large_channels(p.shape.large_channels, [&](auto channels) FASTGAN_INLINED {
    up_row<decltype(channels)::value>(p.shape, small, p.weight, taps, next);
  });
}

template <class S>
FASTGAN_INLINE void write_down(const ThinConvParams& p, const ThinConvScratch& m, int64_t row,
                               const float* const large[4]) {
  const ThinConvShape& s = p.shape;
  with_large_channels(s.large_channels, [&](auto channels) FASTGAN_INLINED {
    for (int64_t j = 0; j < s.width; j += m.kBlock) {
      const int64_t pixels = s.width - j < m.kBlock ? s.width - j : m.kBlock;
      down_pixels<decltype(channels)::value>(s, large, p.weight, j, pixels, m.block);
      write_rows<S>(p, m.block, s.padded_channels(), m.bias_row, pixels, s.small_channels,
                    (row * s.width + j) * s.small_channels);
    }
  });
}

// The sums of one part: float for some rows, then double.
struct ThinConvSums {
  const ThinConvParams& p;
  const ThinConvScratch& m;
  double* weight;
  double* bias;
  int64_t pixels = 0;

  FASTGAN_INLINED ThinConvSums(const ThinConvParams& params, const ThinConvScratch& scratch, int64_t part)
      : p(params), m(scratch) {
    const int64_t padded = p.shape.padded_channels();
    const int64_t channels = p.sum_large ? p.shape.large_channels : padded;
    weight = p.weight_sums == nullptr ? nullptr : p.weight_sums + part * p.shape.taps() * padded;
    bias = p.bias_sums == nullptr ? nullptr : p.bias_sums + part * channels;
  }

  FASTGAN_INLINED void add(const float* const large[4], const float* small, NextRow next) {
    const ThinConvShape& s = p.shape;
    if (weight != nullptr) {
      with_large_channels(s.large_channels, [&](auto channels) FASTGAN_INLINED {
        weight_row<decltype(channels)::value>(s, large, small, m.weight_sum, next);
      });
    }
    if (bias != nullptr && p.sum_large) {
      for (int r = 1; r < 3; r++) add_row(large[r] + s.large_channels, s.large_row(), m.bias_sum);
    } else if (bias != nullptr) {
      add_pixels(s, small, m.bias_sum);
    }
    pixels += s.width;
    if (pixels >= kFloatPixels) move();
  }

  FASTGAN_INLINED void move() {
    const ThinConvShape& s = p.shape;
    pixels = 0;
    if (weight != nullptr) move_sums(m.weight_sum, s.taps() * s.padded_channels(), weight);
    if (bias == nullptr) return;
    if (!p.sum_large) return move_sums(m.bias_sum, s.padded_channels(), bias);
    for (int64_t i = 0; i < s.large_row(); i += s.large_channels) move_sums(m.bias_sum + i, s.large_channels, bias);
  }
};

// Rows [first, last) of image n.
template <class S>
FASTGAN_INLINE void work_rows(const ThinConvParams& p, const ThinConvScratch& m, ThinConvSums& sums, int64_t n,
                              int64_t first, int64_t last) {
  const int64_t height = p.shape.height;
  const bool up = p.up && p.result != nullptr, down = !p.up && p.result != nullptr;
  const auto ahead = [&](int64_t i) FASTGAN_INLINED {
    return next_row<S>(p.small, (n * height + i) * p.shape.small_row());
  };
  const float* upper = m.zeros;
  if (up && first > 0) {
    float* taps = m.taps[(first + 1) % 2];
    multiply_up(p, small_row<S>(p, m, n * height + first - 1), taps, ahead(first));
    upper = taps;
  }
  LargeWindow<S> window;
  for (int64_t i = first; i < last; i++) {
    const float* small = p.small.value == nullptr ? nullptr : small_row<S>(p, m, n * height + i);
    const NextRow next = ahead(i + 1);
    if (p.large.value != nullptr) window.move(p, m, n, i);
    if (up) {
      multiply_up(p, small, m.taps[i % 2], next);
      write_corners<S>(p, m, n, i, upper, m.taps[i % 2], i > 0, true);
      upper = m.taps[i % 2];
    }
    if (down) write_down<S>(p, m, n * height + i, window.rows);
    sums.add(window.rows, small, next);
  }
  if (up && last == height) write_corners<S>(p, m, n, height, upper, m.zeros, true, false);
}

// Rows [first, last) of the batch.
template <class S>
FASTGAN_INLINE void work_part(const ThinConvParams& p, const ThinConvScratch& m, int64_t part, int64_t first,
                              int64_t last) {
  const int64_t height = p.shape.height;
  ThinConvSums sums(p, m, part);
  while (first < last) {
    const int64_t n = first / height, end = last < (n + 1) * height ? last : (n + 1) * height;
    work_rows<S>(p, m, sums, n, first - n * height, end - n * height);
    first = end;
  }
  sums.move();
}

void thin_conv(const ThinConvParams& p, int64_t begin, int64_t end) {
  const ThinConvShape& s = p.shape;
  const ThinConvScratch m(s, p.scratch);
  const int64_t channels = p.up ? s.large_channels : s.padded_channels(), size = p.up ? s.large_row() : channels;
  for (int64_t i = 0; i < size; i++) m.bias_row[i] = p.bias[i % channels];
  const auto first_row = [&](int64_t part) FASTGAN_INLINED { return part * s.rows() / p.parts; };
  const bool separate = p.weight_sums != nullptr || p.bias_sums != nullptr;
  with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    using S = decltype(element);
    if constexpr (sizeof(S) <= sizeof(float)) {
      if (!separate) return work_part<S>(p, m, 0, first_row(begin), first_row(end));
      for (int64_t part = begin; part < end; part++) work_part<S>(p, m, part, first_row(part), first_row(part + 1));
    }
  });
}
