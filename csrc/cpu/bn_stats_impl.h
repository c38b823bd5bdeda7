// Mean and sum of squared deviations of each channel:  mean = sum z / M,  square = sum (z - mean)^2,  M = N * S.
//
// z: (N, C, S), see image.h. Results: (parts, C), see image_tiles.h.
// A chunk that fits L1 is read twice: its approximate mean K first, then s1 = sum (z - K) and s2 = sum (z - K)^2, which give
// mean = K + s1 / n and square = s2 - s1^2 / n. As K is close to the mean nothing cancels, however far the mean is from zero.
// Numerics: lanes of float within a chunk of at most 4096 elements, double across chunks (merge_stats).

// The pieces of channel c that hold its elements [begin, end), counted over samples, then pixels: f(pointer, length).
template <class S, class F>
FASTGAN_INLINE void for_pieces(const ImageShape& shape, const S* base, int64_t c, int64_t begin, int64_t end, F f) {
  int64_t n = begin / shape.pixels, offset = begin % shape.pixels;
  while (begin < end) {
    const int64_t length = at_most(shape.pixels - offset, end - begin);
    f(base + (n * shape.channels + c) * shape.pixels + offset, length);
    begin += length;
    offset = 0;
    n++;
  }
}

template <class S>
FASTGAN_INLINE void stats_of_channel(const BnStatsParams& p, int64_t part, int64_t c, int64_t parts) {
  using T = arithmetic_t<S>;
  const S* z = static_cast<const S*>(p.z);
  const int64_t size = p.shape.per_channel();
  const int64_t first = part * size / parts, last = (part + 1) * size / parts;
  double n = 0, mean = 0, square = 0;
  for (int64_t begin = first; begin < last; begin += kChunkElements) {
    const int64_t end = at_most(begin + kChunkElements, last);
    vec<T> total[4] = {};
    for_pieces(p.shape, z, c, begin, end, [&](const S* x, int64_t length) FASTGAN_INLINED {
      for_vectors4<T>(length, [&](int64_t i, auto k, int lane) FASTGAN_INLINED { total[lane] += load(x + i, k); });
    });
    const double count = double(end - begin);
    const T pivot = T(sum((total[0] + total[1]) + (total[2] + total[3])) / count);
    vec<T> s1[4] = {}, s2[4] = {};
    for_pieces(p.shape, z, c, begin, end, [&](const S* x, int64_t length) FASTGAN_INLINED {
      for_vectors4<T>(length, [&](int64_t i, auto k, int lane) FASTGAN_INLINED {
        const vec<T> d = keep(load(x + i, k) - pivot, k);
        s1[lane] += d;
        s2[lane] = fma(d, d, s2[lane]);
      });
    });
    const double d1 = sum((s1[0] + s1[1]) + (s1[2] + s1[3])), d2 = sum((s2[0] + s2[1]) + (s2[2] + s2[3]));
    merge_stats(n, mean, square, count, pivot + d1 / count, d2 - d1 * d1 / count);
  }
  const int64_t at = part * p.shape.channels + c;
  p.count[at] = n;
  p.mean[at] = mean;
  p.square[at] = square;
}

// Columns [column, column + width) of `rows` rows of `stride` elements; accumulates into n, mean[], square[].
template <class S>
FASTGAN_INLINE void stats_of_rows(const S* z, int64_t rows, int64_t stride, int64_t width, double& n, double* mean,
                                  double* square) {
  using T = arithmetic_t<S>;
  T pivot[kColumns], s1[kColumns], s2[kColumns];
  const int64_t step = at_most(at_least(2 * kChunkElements / width, 4), 64);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = at_most(step, rows - begin);
    const S* chunk = z + begin * stride;
    for (int64_t j = 0; j < width; j++) pivot[j] = s1[j] = s2[j] = 0;
    for (int64_t r = 0; r < count; r++) {
      for_vectors<T>(width, [&](int64_t j, auto k) FASTGAN_INLINED {
        store(pivot + j, load(pivot + j, k) + load(chunk + r * stride + j, k), k);
      });
    }
    for (int64_t j = 0; j < width; j++) pivot[j] *= T(1) / T(count);
    for (int64_t r = 0; r < count; r++) {
      for_vectors<T>(width, [&](int64_t j, auto k) FASTGAN_INLINED {
        const vec<T> d = load(chunk + r * stride + j, k) - load(pivot + j, k);
        store(s1 + j, load(s1 + j, k) + d, k);
        store(s2 + j, fma(d, d, load(s2 + j, k)), k);
      });
    }
    const double inverse = 1.0 / double(count), share = double(count) / (n + double(count));
    for (int64_t j = 0; j < width; j++) {
      const double delta = pivot[j] + s1[j] * inverse - mean[j];
      mean[j] += delta * share;
      square[j] += s2[j] - double(s1[j]) * s1[j] * inverse + delta * delta * (n * share);
    }
    n += double(count);
  }
}

template <class S>
FASTGAN_INLINE void stats_of_part(const BnStatsParams& p, int64_t part, int64_t parts) {
  const int64_t channels = p.shape.channels, period = channel_period(p.shape), repeat = period / channels;
  const int64_t size = p.shape.per_channel();
  const int64_t first = part * size / parts, last = (part + 1) * size / parts;
  const int64_t rows = (last - first) / repeat, rest = (last - first) % repeat;
  const S* z = static_cast<const S*>(p.z) + first * channels;
  double* count = p.count + part * channels;
  double* mean = p.mean + part * channels;
  double* square = p.square + part * channels;
  for (int64_t c = 0; c < channels; c++) count[c] = mean[c] = square[c] = 0;
  double column_mean[kColumns], column_square[kColumns];
  const auto columns = [&](const S* from, int64_t height, int64_t begin, int64_t width) {
    double n = 0;
    for (int64_t j = 0; j < width; j++) column_mean[j] = column_square[j] = 0;
    stats_of_rows(from + begin, height, period, width, n, column_mean, column_square);
    for (int64_t j = 0, c = begin % channels; j < width; j++, c = c + 1 == channels ? 0 : c + 1) {
      merge_stats(count[c], mean[c], square[c], n, column_mean[j], column_square[j]);
    }
  };
  for (int64_t j = 0; j < period && rows > 0; j += kColumns) columns(z, rows, j, at_most(kColumns, period - j));
  const int64_t tail = rest * channels;  // the last virtual row, not a whole one
  for (int64_t j = 0; j < tail; j += kColumns) columns(z + rows * period, 1, j, at_most(kColumns, tail - j));
}

void bn_stats(const BnStatsParams& p, int64_t begin, int64_t end) {
  const int64_t parts = ReductionTiles(p.shape).parts;
  with_dtype(p.dtype, [&](auto tag) FASTGAN_INLINED {
    using S = decltype(tag);
    for (int64_t unit = begin; unit < end; unit++) {
      if (p.shape.layout == Layout::ChannelsFirst) {
        stats_of_channel<S>(p, unit / p.shape.channels, unit % p.shape.channels, parts);
      } else {
        stats_of_part<S>(p, unit, parts);
      }
    }
  });
}
