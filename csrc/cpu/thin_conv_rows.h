// The work on one row of a thin convolution, for thin_conv_impl.h: three matrix products in float, and the passes
// between images of any element type and rows of float.
//
// A product keeps a block of its result in registers, pixels (or taps) x vectors, and walks its inner dimension once:
// per step one load a vector, one broadcast a pixel. 16 to 24 accumulators of 32 registers, or 12 of 16, hide the
// latency of fma.

#define FASTGAN_UNROLL _Pragma("GCC unroll 16")

constexpr int kBlockPixels = 4;
constexpr int kBlockVectors = FASTGAN_VECTOR_BYTES == 64 ? 4 : 3;

template <int N>
struct count {
  static constexpr int value = N;
};

// Calls block(first, count<n>) for [0, size) in blocks of N and, at the end, of 1.
template <int N, class F>
FASTGAN_INLINE void for_blocks(int64_t size, F block) {
  int64_t i = 0;
  for (; i + N <= size; i += N) block(i, count<N>{});
  for (; i < size; i++) block(i, count<1>{});
}

// Calls block(first channel, count<vectors>) for all channels, the last vector being padded.
template <class F>
FASTGAN_INLINE void for_vector_blocks(int64_t channels, F block) {
  constexpr int64_t kLanes = lanes<float>;
  int64_t c = 0;
  for (; c + (kBlockVectors - 1) * kLanes < channels; c += kBlockVectors * kLanes) block(c, count<kBlockVectors>{});
  if constexpr (kBlockVectors > 3) {
    if (c + 2 * kLanes < channels) return block(c, count<3>{});
  }
  if (c + kLanes < channels) return block(c, count<2>{});
  if (c < channels) block(c, count<1>{});
}

// The elements that are read next. They are fetched into the cache while a product works on the present row: reads come
// in bursts, row by row, which the processor's own prefetching does not spread over the time between them.
struct NextRow {
  const char* value;
  const char* output;  // or again value
  int64_t bytes;       // of an element

  FASTGAN_INLINED NextRow from(int64_t element) const {
    return {value + element * bytes, output + element * bytes, bytes};
  }
  FASTGAN_INLINED void fetch(int64_t element) const {
    __builtin_prefetch(value + element * bytes);
    __builtin_prefetch(output + element * bytes);
  }
};

// ---- up: taps = small * weight --------------------------------------------------------------------------------------

constexpr int64_t kUpDepth = 128;  // channels in one go: their weights stay in L1, and float sums stay short

// taps (pixels, 16 Cl) = or += small (pixels, depth; row stride Cs) * weight (depth, 16 Cl), for Vectors of columns.
template <int Pixels, int Vectors>
FASTGAN_INLINE void up_block(const float* small, int64_t channels, int64_t depth, const float* weight, int64_t columns,
                             bool add, float* taps, NextRow ahead) {
  vec<float> sum[Pixels][Vectors] = {};
  for (int64_t k = 0; k < depth; k++) {
    vec<float> w[Vectors];
    ahead.fetch(k * Pixels);
    FASTGAN_UNROLL
    for (int v = 0; v < Vectors; v++) w[v] = load(weight + k * columns + v * lanes<float>);
    FASTGAN_UNROLL
    for (int i = 0; i < Pixels; i++) {
      const vec<float> x = broadcast(small[i * channels + k]);
      FASTGAN_UNROLL
      for (int v = 0; v < Vectors; v++) sum[i][v] = fma(x, w[v], sum[i][v]);
    }
  }
  FASTGAN_UNROLL
  for (int i = 0; i < Pixels; i++) {
    FASTGAN_UNROLL
    for (int v = 0; v < Vectors; v++) {
      float* at = taps + i * columns + v * lanes<float>;
      store(at, add ? load(at) + sum[i][v] : sum[i][v]);
    }
  }
}

template <int Cl>
static void up_row(const ThinConvShape& s, const float* small, const float* weight, float* taps, NextRow next) {
  constexpr int kColumns = 16 * Cl, kAll = kColumns / lanes<float>;
  constexpr int kVectors = kAll <= 4 ? kAll : kAll % 3 == 0 ? 3 : 2;
  constexpr int kPixels = kVectors * 8 <= 24 && FASTGAN_VECTOR_BYTES == 64 ? 8 : kBlockPixels;
  static_assert(kAll % kVectors == 0, "the columns are whole blocks");
  for (int64_t k = 0; k < s.small_channels; k += kUpDepth) {
    const int64_t depth = s.small_channels - k < kUpDepth ? s.small_channels - k : kUpDepth;
    for (int v = 0; v < kAll; v += kVectors) {
      const float* w = weight + k * kColumns + v * lanes<float>;
      float* to = taps + kColumns + v * lanes<float>;  // past the zero pixel
      const auto block = [&](int64_t j, auto pixels) FASTGAN_INLINED {
        constexpr int kCount = decltype(pixels)::value;
        const int64_t first = j * s.small_channels;
        up_block<kCount, kVectors>(small + first + k, s.small_channels, depth, w, kColumns, k > 0, to + j * kColumns,
                                   next.from(first + k * kCount));
      };
      for_blocks<kPixels>(s.width, block);
    }
  }
}

// The large pixels (2i - 1, 2j - 1) to (2i, 2j), for j in [0, W], from the taps of rows i (`lower`) and i - 1
// (`upper`): each is the sum of one tap of each of the four small pixels around the corner.
template <int Cl>
static void up_corners(const ThinConvShape& s, const float* upper, const float* lower, float* const corners[2]) {
  constexpr int kPair = 2 * Cl, kHalf = 8 * Cl, kPixel = 16 * Cl;  // two large pixels, half the taps, all of them
  for (int64_t j = 0; j <= s.width; j++) {
    FASTGAN_UNROLL
    for (int r = 0; r < 2; r++) {
      // whole vectors are stored: what lies past the pair is overwritten by the next j
      FASTGAN_UNROLL
      for (int e = 0; e < kPair; e += lanes<float>) {
        const float* a = lower + j * kPixel + r * kPair + e;
        const float* b = upper + j * kPixel + (r + 2) * kPair + e;
        store(corners[r] + j * kPair + e, (load(a + kPixel) + load(a + kHalf)) + (load(b + kPixel) + load(b + kHalf)));
      }
    }
  }
}

// ---- down: small = large * weight -----------------------------------------------------------------------------------

// out (pixels, padded Cs) = sum over ky and t in [0, 4 Cl) of large[ky][2 Cl pixel + t] * weight[ky][t], for Vectors.
template <int Cl, int Pixels, int Vectors>
FASTGAN_INLINE void down_block(const float* const large[4], int64_t j, const float* weight, int64_t stride,
                               float* out) {
  vec<float> sum[Pixels][Vectors] = {};
  for (int ky = 0; ky < 4; ky++) {
    const float* row = large[ky] + j * 2 * Cl;
    for (int t = 0; t < 4 * Cl; t++, weight += stride) {
      vec<float> w[Vectors];
      FASTGAN_UNROLL
      for (int v = 0; v < Vectors; v++) w[v] = load(weight + v * lanes<float>);
      FASTGAN_UNROLL
      for (int i = 0; i < Pixels; i++) {
        const vec<float> x = broadcast(row[i * 2 * Cl + t]);
        FASTGAN_UNROLL
        for (int v = 0; v < Vectors; v++) sum[i][v] = fma(x, w[v], sum[i][v]);
      }
    }
  }
  FASTGAN_UNROLL
  for (int i = 0; i < Pixels; i++) {
    FASTGAN_UNROLL
    for (int v = 0; v < Vectors; v++) store(out + i * stride + v * lanes<float>, sum[i][v]);
  }
}

// out (pixels, padded Cs): the small pixels [first, first + pixels) of a row.
template <int Cl>
static void down_pixels(const ThinConvShape& s, const float* const large[4], const float* weight, int64_t first,
                        int64_t pixels, float* out) {
  const int64_t padded = s.padded_channels();
  for_vector_blocks(s.small_channels, [&](int64_t c, auto vectors) FASTGAN_INLINED {
    for_blocks<kBlockPixels>(pixels, [&](int64_t j, auto block) FASTGAN_INLINED {
      down_block<Cl, decltype(block)::value, decltype(vectors)::value>(large, first + j, weight + c, padded,
                                                                       out + j * padded + c);
    });
  });
}

// ---- weight: sums += large^T * small --------------------------------------------------------------------------------

// sums (Taps, padded Cs) += sum over the row's pixels j of large[2 Cl j + tap] * small[j], for Vectors. Every pixel
// fetches `step` elements of the next row.
template <int Cl, int Taps, int Vectors>
FASTGAN_INLINE void weight_block(const ThinConvShape& s, const float* large, const float* small, float* sums,
                                 int64_t stride, NextRow next, int64_t step) {
  vec<float> sum[Taps][Vectors];
  FASTGAN_UNROLL
  for (int t = 0; t < Taps; t++) {
    FASTGAN_UNROLL
    for (int v = 0; v < Vectors; v++) sum[t][v] = load(sums + t * stride + v * lanes<float>);
  }
  for (int64_t j = 0; j < s.width; j++, large += 2 * Cl, small += s.small_channels) {
    vec<float> x[Vectors];
    next.fetch(j * step);
    FASTGAN_UNROLL
    for (int v = 0; v < Vectors; v++) x[v] = load(small + v * lanes<float>);
    FASTGAN_UNROLL
    for (int t = 0; t < Taps; t++) {
      const vec<float> l = broadcast(large[t]);
      FASTGAN_UNROLL
      for (int v = 0; v < Vectors; v++) sum[t][v] = fma(l, x[v], sum[t][v]);
    }
  }
  FASTGAN_UNROLL
  for (int t = 0; t < Taps; t++) {
    FASTGAN_UNROLL
    for (int v = 0; v < Vectors; v++) store(sums + t * stride + v * lanes<float>, sum[t][v]);
  }
}

template <int Cl>
static void weight_row(const ThinConvShape& s, const float* const large[4], const float* small, float* sums,
                       NextRow next) {
  constexpr int kTaps = Cl == 3 && FASTGAN_VECTOR_BYTES == 64 ? 6 : 4;
  constexpr int kBlocks = 16 * Cl / kTaps;  // each of which fetches its share of the next row
  const int64_t padded = s.padded_channels();
  for_vector_blocks(s.small_channels, [&](int64_t c, auto vectors) FASTGAN_INLINED {
    constexpr int kStep = decltype(vectors)::value * lanes<float> / kBlocks + 1;
    for (int ky = 0; ky < 4; ky++) {
      for (int t = 0; t < 4 * Cl; t += kTaps) {
        const int64_t share = (ky * 4 * Cl + t) / kTaps * s.width * kStep;
        weight_block<Cl, kTaps, decltype(vectors)::value>(s, large[ky] + t, small + c,
                                                          sums + (ky * 4 * Cl + t) * padded + c, padded,
                                                          next.from(c * s.width + share), kStep);
      }
    }
  });
}

// ---- between images and rows ----------------------------------------------------------------------------------------

// to[i] = value * act'(output) for the `size` elements from `first` on.
template <class S>
static void read_row(const ThinConvImage& image, int64_t first, int64_t size, float* to) {
  const S* value = static_cast<const S*>(image.value) + first;
  const S* output = image.activation == Activation::None ? value : static_cast<const S*>(image.output) + first;
  with_activation(image.activation, [&](auto activation) FASTGAN_INLINED {
    constexpr Activation A = decltype(activation)::value;
    for_vectors<float>(size, [&](int64_t i, auto k) FASTGAN_INLINED {
      store(to + i, activation_gradient<A>(load(value + i, k), load(output + i, k), float(image.negative_slope)), k);
    });
  });
}

// to[i] = act(row[i] + bias[i]), row after row of `size` elements: `stride` apart in `row`, `size` apart in `to`.
template <class S>
static void write_rows(const ThinConvParams& p, const float* row, int64_t stride, const float* bias, int64_t rows,
                       int64_t size, int64_t first) {
  S* to = static_cast<S*>(p.result) + first;
  with_activation(p.activation, [&](auto activation) FASTGAN_INLINED {
    for (int64_t r = 0; r < rows; r++, row += stride, to += size) {
      for_vectors<float>(size, [&](int64_t i, auto k) FASTGAN_INLINED {
        const vec<float> u = load(row + i, k) + load(bias + i, k);
        __builtin_prefetch(to + i + rows * size, 1);  // written by the next call
        store(to + i, activate<decltype(activation)::value>(u, float(p.negative_slope)), k);
      });
    }
  });
}

// sums[i] += row[i]
static void add_row(const float* row, int64_t size, float* sums) {
  for_vectors<float>(size, [&](int64_t i, auto k) FASTGAN_INLINED {
    store(sums + i, load(sums + i, k) + load(row + i, k), k);
  });
}

// sums[c] += sum of row[j][c] over the row's pixels j; reads up to a vector past the end of the row.
static void add_pixels(const ThinConvShape& s, const float* row, float* sums) {
  for (int64_t c = 0; c < s.small_channels; c += lanes<float>) {
    vec<float> sum[4] = {};
    int64_t j = 0;
    for (; j + 4 <= s.width; j += 4) {
      FASTGAN_UNROLL
      for (int a = 0; a < 4; a++) sum[a] += load(row + (j + a) * s.small_channels + c);
    }
    for (; j < s.width; j++) sum[0] += load(row + j * s.small_channels + c);
    store(sums + c, load(sums + c) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }
}

// sums[i] += row[i], row[i] = 0
static void move_sums(float* row, int64_t size, double* sums) {
  for (int64_t i = 0; i < size; i++) {
    sums[i] += row[i];
    row[i] = 0;
  }
}
