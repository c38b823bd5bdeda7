// F(4x4, 2x2) of 4x4 stride-2 convolutions; what is computed and in which layouts: winograd.h.
//
// Transforms work on one vector of channels at a time, all 25 points in registers. A product unit computes, for one block and
// four vectors of columns, the 25 accumulators (rows x 4 vectors), depth by depth, then interpolates from L2 straight into
// the output, where bias, statistics or normalisation are applied. Widths that are no multiple of the vector end in a
// masked step, depths that are no multiple of the vector are padded with zeros in both factors.
#include "cpu/winograd_points.h"

#include "cpu/gemm_kernel.h"

constexpr int kLanes = lanes<float>;
constexpr int kColumns4 = 4 * kLanes;  // columns of a product unit
constexpr int kUpper = kLanes * 2;     // columns of one panel, of which a unit has two

FASTGAN_INLINE int64_t padded(int64_t channels) { return ceil_div(channels, int64_t(kLanes)) * kLanes; }

// Where tile `index` of a chunk lies.
struct TilePlace {
  int64_t image, row, column;  // the image within the batch; the tile within its image
  int64_t block, matrix_row;   // the block within the chunk; the row of its matrices
};
FASTGAN_INLINE TilePlace place_of(const WinogradShape& s, const WinogradChunk& chunk, int64_t index) {
  const int64_t tiles = s.image_tiles(), within = index % tiles, image = index / tiles, per_block = s.block_images();
  return {chunk.first_block * per_block + image, within / s.tile_columns(), within % s.tile_columns(), image / per_block,
          image % per_block * tiles + within};
}

// ---- what is transformed --------------------------------------------------------------------------------------------

template <class S>
struct PlainImage {
  const S* image;
  struct Channels {};
  template <class Step>
  FASTGAN_INLINED Channels channels(int64_t, Step) const {
    return {};
  }
  template <class Step>
  FASTGAN_INLINED V load_at(int64_t i, Step k, const Channels&) const {
    return load(image + i, k);
  }
  FASTGAN_INLINED void prefetch(int64_t i) const { __builtin_prefetch(image + i); }
};

// The gradient behind BatchNorm and activation, by the instructions of bn_act_backward_elemt.
template <Activation A>
struct GradientImage {
  const float *grad_y, *z, *mean, *scale, *beta, *offset, *slope_z;
  float negative_slope;
  struct Channels {
    V mean, scale, beta, offset, slope_z;
  };
  template <class Step>
  FASTGAN_INLINED Channels channels(int64_t c, Step k) const {
    return {load(mean + c, k), load(scale + c, k), load(beta + c, k), load(offset + c, k), load(slope_z + c, k)};
  }
  template <class Step>
  FASTGAN_INLINED V load_at(int64_t i, Step k, const Channels& of) const {
    const V centered = load(z + i, k) - of.mean;
    const V g = activation_gradient<A>(load(grad_y + i, k), fma(centered, of.scale, of.beta), negative_slope);
    return fma(of.scale, g, -fma(of.slope_z, centered, of.offset));
  }
  FASTGAN_INLINED void prefetch(int64_t i) const {
    __builtin_prefetch(grad_y + i);
    __builtin_prefetch(z + i);
  }
};

template <class F>
FASTGAN_INLINE void with_source(const WinogradTransformParams& p, F f) {
  if (p.z == nullptr) {
    with_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
      using S = decltype(element);
      if constexpr (sizeof(S) == sizeof(float)) f(PlainImage<S>{static_cast<const S*>(p.image)});
    });
    return;
  }
  with_activation(p.activation, [&](auto activation) FASTGAN_INLINED {
    constexpr Activation A = decltype(activation)::value;
    if constexpr (A != Activation::Tanh) {
      f(GradientImage<A>{static_cast<const float*>(p.image), static_cast<const float*>(p.z), p.mean, p.scale, p.beta,
                         p.offset, p.slope_z, float(p.negative_slope)});
    }
  });
}

// ---- transforms of the data -----------------------------------------------------------------------------------------

// A run of Size pixels along one axis, `step` apart, of which those outside [0, length) are to read as zero. Offsets of these are
// moved inside, so that loads need no branch, and their masks are zero.
template <int Size>
struct Line {
  int64_t at[Size];
  int32_t mask[Size];
  bool whole = true;
  Line(int64_t first, int64_t step, int64_t length, int64_t stride) {
    for (int i = 0; i < Size; i++) {
      const int64_t pixel = first + i * step;
      const bool inside = pixel >= 0 && pixel < length;
      at[i] = (inside ? pixel : at_least(at_most(pixel, length - 1), 0)) * stride;
      mask[i] = inside ? -1 : 0;
      whole = whole && inside;
    }
  }
};

template <bool Whole>
FASTGAN_INLINE V masked(V v, int32_t mask) {
  return Whole ? v : (V)((vec<int32_t>)v & mask);
}

template <bool Whole, class Image>
FASTGAN_INLINE void transform_small_tile(const WinogradTransformParams& p, const Image& image, const TilePlace& at,
                                         const Line<4>& rows, const Line<4>& columns) {
  const WinogradShape& s = p.shape;
  const int64_t channels = s.small_channels, point = s.point_stride();
  const int64_t first = at.image * s.height * s.width * channels;
  // The next row of tiles is read through once while this one is transformed.
  int64_t ahead = first + (kTile * (at.row + 1) * s.width + at.column * 16) * channels;
  for_vectors<float>(channels, [&](int64_t c, auto k) FASTGAN_INLINED {
    const auto of = image.channels(c, k);
    for (int i = 0; i < 16; i++, ahead += 64 / sizeof(float)) image.prefetch(ahead);
    V half[4][5];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      V x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const V v = image.load_at(first + rows.at[i] + columns.at[j] + c, k, of);
        x[i] = masked<Whole>(v, rows.mask[i] & columns.mask[j]);
      }
      values(x, half[j]);
    }
    float* to = p.transformed + at.block * s.small_block() + c / kDepth * (kPoints * point) + at.matrix_row * kDepthStride +
                c % kDepth;
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
      const V x[4] = {half[0][i], half[1][i], half[2][i], half[3][i]};
      V e[5];
      values(x, e);
#pragma GCC unroll 5
      for (int j = 0; j < 5; j++) store(to + (i * 5 + j) * point, e[j]);
    }
  });
}

void winograd_transform_small(const WinogradTransformParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  with_source(p, [&](auto image) FASTGAN_INLINED {
    for (int64_t unit = begin; unit < end; unit++) {
      const TilePlace at = place_of(s, p.chunk, unit);
      const Line<4> rows(at.row * kTile, 1, s.height, s.width * s.small_channels);
      const Line<4> columns(at.column * kTile, 1, s.width, s.small_channels);
      if (rows.whole && columns.whole) {
        transform_small_tile<true>(p, image, at, rows, columns);
      } else {
        transform_small_tile<false>(p, image, at, rows, columns);
      }
    }
  });
}

// One phase of one tile: 5x5 large-side pixels, every other one along each axis.
template <bool Whole, class Image, class Step, class Channels>
FASTGAN_INLINE void transform_phase(const Image& image, int64_t first, const Line<5>& rows, const Line<5>& columns, Step k,
                                    const Channels& of, float* to, int64_t point) {
  V half[5][5];
#pragma GCC unroll 5
  for (int j = 0; j < 5; j++) {
    V x[5];
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
      x[i] = masked<Whole>(image.load_at(first + rows.at[i] + columns.at[j], k, of), rows.mask[i] & columns.mask[j]);
    }
    interpolate_transposed(x, half[j]);
  }
#pragma GCC unroll 5
  for (int i = 0; i < 5; i++) {
    const V x[5] = {half[0][i], half[1][i], half[2][i], half[3][i], half[4][i]};
    V e[5];
    interpolate_transposed(x, e);
#pragma GCC unroll 5
    for (int j = 0; j < 5; j++) store(to + (i * 5 + j) * point, e[j]);
  }
}

template <bool Whole, class Image>
FASTGAN_INLINE void transform_large_tile(const WinogradTransformParams& p, const Image& image, const TilePlace& at,
                                         const Line<5> (&rows)[2], const Line<5> (&columns)[2]) {
  const WinogradShape& s = p.shape;
  const int64_t channels = s.large_channels, point = s.point_stride();
  const int64_t width = 2 * s.width, first = at.image * 2 * s.height * width * channels;
  // The next row of tiles is read through once while this one is transformed.
  int64_t ahead = first + (2 * kTile * (at.row + 1) + 1) * width * channels + at.column * 64 * channels;
  for_vectors<float>(channels, [&](int64_t c, auto k) FASTGAN_INLINED {
    const auto of = image.channels(c, k);
    const int64_t depth = c / kLargeDepth, phase = padded(at_most(channels - depth * kLargeDepth, kLargeDepth));
    float* to = p.transformed + at.block * s.large_block() + depth * (kPoints * point) + at.matrix_row * kDepthStride +
                c % kLargeDepth;
    for (int f = 0; f < 4; f++) {
      for (int i = 0; i < 16; i++, ahead += 64 / sizeof(float)) image.prefetch(ahead);
      transform_phase<Whole>(image, first + c, rows[f / 2], columns[f % 2], k, of, to + f * phase, point);
    }
  });
}

void winograd_transform_large(const WinogradTransformParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  const int64_t height = 2 * s.height, width = 2 * s.width, channels = s.large_channels;
  with_source(p, [&](auto image) FASTGAN_INLINED {
    for (int64_t unit = begin; unit < end; unit++) {
      const TilePlace at = place_of(s, p.chunk, unit);
      // The even phase's fifth pixel belongs to the next tile, the odd phase's first to the one before.
      const int64_t top = 2 * kTile * at.row, left = 2 * kTile * at.column;
      const Line<5> rows[2] = {{top, 2, height, width * channels}, {top - 1, 2, height, width * channels}};
      const Line<5> columns[2] = {{left, 2, width, channels}, {left - 1, 2, width, channels}};
      if (rows[0].whole && rows[1].whole && columns[0].whole && columns[1].whole) {
        transform_large_tile<true>(p, image, at, rows, columns);
      } else {
        transform_large_tile<false>(p, image, at, rows, columns);
      }
    }
  });
}

// ---- transforms of the weight ---------------------------------------------------------------------------------------

// The 16 taps of `rows` rows of 16 taps each (row i at from + i * stride), a vector over rows for each tap; rows that are
// not there are zero.
template <class S>
FASTGAN_INLINE void load_taps(const S* from, int64_t stride, int64_t rows, V (&taps)[16]) {
#pragma GCC unroll 4
  for (int q = 0; q < 16; q += kLanes) {
    V part[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) part[i] = i < rows ? load(from + i * stride + q) : V{};
    transpose(part);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) taps[q + i] = part[i];
  }
}

// The 25 points of the four phases of 16 taps: phase f, point p at to + phase_offset(f) + p * packed_stride().
template <class Offset>
FASTGAN_INLINE void transform_taps(const V (&taps)[16], float* to, Offset phase_offset) {
#pragma GCC unroll 4
  for (int f = 0; f < 4; f++) {
    const int y = first_tap(f / 2), x = first_tap(f % 2);
    V left[5], right[5];
    weights(taps[y * 4 + x], taps[(y + 2) * 4 + x], left);
    weights(taps[y * 4 + x + 2], taps[(y + 2) * 4 + x + 2], right);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
      V u[5];
      weights(left[i], right[i], u);
#pragma GCC unroll 5
      for (int j = 0; j < 5; j++) store(to + phase_offset(f) + (i * 5 + j) * packed_stride(kLanes), u[j]);
    }
  }
}

// Packed for `up`: one vector of large channels, one depth of small channels.
//   (25, 2 rows of phases, small channel, 2 columns of phases, large channel)
template <class S>
FASTGAN_INLINE void pack_up(const WinogradShape& s, const WinogradWeight& weight, int64_t column, int64_t depth, float* to) {
  const int64_t large = s.large_channels, c = column * kLanes, rest = at_most(large - c, kLanes);
  const int64_t first = depth * kDepth, last = at_most(first + kDepth, s.small_channels);
  for (int64_t k = first; k < last; k++) {
    const S* from = static_cast<const S*>(weight.data) + k * large * 16;
    V taps[16];
    // rows are too far apart for the processor's own prefetching
    const S* ahead = from + 4 * large * 16 + (weight.channels_last ? c : c * 16);
    for (int t = 0; t < 16; t++) __builtin_prefetch(ahead + t * (weight.channels_last ? large : int64_t(kLanes)));
    if (weight.channels_last) {
      for (int t = 0; t < 16; t++) taps[t] = rest == kLanes ? load(from + t * large + c) : load(from + t * large + c, rest);
    } else {
      load_taps(from + c * 16, 16, rest, taps);
    }
    transform_taps(taps, to + (k - first) * kUpper,
                   [](int f) FASTGAN_INLINED { return f / 2 * kDepth * kUpper + f % 2 * kLanes; });
  }
}

// Packed for `down`: four vectors of small channels, one depth of large channels.
//   (25, 2 halves of the small channels, phase, large channel, small channel)
template <class S>
FASTGAN_INLINE void pack_down(const WinogradShape& s, const WinogradWeight& weight, int64_t column, int64_t depth, float* to) {
  const int64_t large = s.large_channels, first = depth * kLargeDepth, count = at_most(large - first, kLargeDepth);
  const int64_t phase = padded(count);
  for (int v = 0; v < 4; v++) {
    const int64_t row = (column * 4 + v) * kLanes, rows = at_least(at_most(s.small_channels - row, kLanes), 0);
    const S* from = static_cast<const S*>(weight.data) + row * large * 16;
    for (int64_t c0 = 0; c0 < phase; c0 += kLanes) {
      // Channels-last keeps the large channels of one tap together: transposed tap by tap, kept for the channels that follow.
      V staged[16][kLanes];
      if (weight.channels_last) {
        const int64_t rest = at_least(at_most(count - c0, kLanes), 0);
        for (int t = 0; t < 16; t++) {
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; i++) {
            const S* at = from + (i * 16 + t) * large + first + c0;
            staged[t][i] = i < rows ? (rest == kLanes ? load(at) : load(at, rest)) : V{};
          }
          transpose(staged[t]);
        }
      }
      for (int64_t i = 0; i < kLanes; i++) {
        const int64_t c = c0 + i;
        V taps[16];
        if (c >= count) {
          for (V& tap : taps) tap = V{};
        } else if (weight.channels_last) {
#pragma GCC unroll 16
          for (int t = 0; t < 16; t++) taps[t] = staged[t][i];
        } else {
          load_taps(from + (first + c) * 16, large * 16, rows, taps);
          for (int t = 0; t < kLanes; t++) __builtin_prefetch(from + t * large * 16 + (first + c + 8) * 16);
        }
        transform_taps(taps, to + v / 2 * kDepth * kUpper + c * kUpper + v % 2 * kLanes,
                       [&](int f) FASTGAN_INLINED { return f * phase * kUpper; });
      }
    }
  }
}

template <class F>
FASTGAN_INLINE void with_weight_dtype(DType dtype, F f) {
  with_dtype(dtype, [&](auto element) FASTGAN_INLINED {
    if constexpr (sizeof(element) == sizeof(float)) f(element);
  });
}

static __attribute__((noinline)) void pack_up(const WinogradShape& s, DType dtype, const WinogradWeight& weight,
                                              int64_t column, int64_t depth, float* to) {
  with_weight_dtype(dtype, [&](auto e) FASTGAN_INLINED { pack_up<decltype(e)>(s, weight, column, depth, to); });
}

static __attribute__((noinline)) void pack_down(const WinogradShape& s, DType dtype, const WinogradWeight& weight,
                                                int64_t column, int64_t depth, float* to) {
  with_weight_dtype(dtype, [&](auto e) FASTGAN_INLINED { pack_down<decltype(e)>(s, weight, column, depth, to); });
}

void winograd_pack_up(const WinogradPackParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.small_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    pack_up(p.shape, p.dtype, p.weight, unit / depths, unit % depths, p.packed + unit * packed_block(kLanes));
  }
}

void winograd_pack_down(const WinogradPackParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.large_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    pack_down(p.shape, p.dtype, p.weight, unit / depths, unit % depths, p.packed + unit * packed_block(kLanes));
  }
}

// ---- what happens to the output -------------------------------------------------------------------------------------

// One vector of channels of the output; `put` takes each of its values once. The same place of the next tile is asked for
// ahead of its store: `next` elements further.
template <class S, class Step>
struct BiasOutput {
  S* out;
  Step step;
  int64_t next;
  V bias;
  BiasOutput(const WinogradProductParams& p, int64_t c, Step k, int64_t next_tile)
      : out(static_cast<S*>(p.out) + c), step(k), next(next_tile), bias(p.bias ? load(p.bias + c, k) : V{}) {}
  FASTGAN_INLINED void put(int64_t i, V v) {
    __builtin_prefetch(out + i + next, 1);
    store(out + i, v + bias, step);
  }
  FASTGAN_INLINED void end_of_tile() {}
  FASTGAN_INLINED void finish(const WinogradProductParams&, int64_t, int64_t) {}
};

// act((v + bias - mean) * scale + beta), the activation without a branch.
template <class S, class Step>
struct ActivatedOutput {
  S* out;
  Step step;
  int64_t next;
  V bias, mean, scale, beta;
  vec<int32_t> keep_negative;
  float negative_slope;
  ActivatedOutput(const WinogradProductParams& p, int64_t c, Step k, int64_t next_tile)
      : out(static_cast<S*>(p.out) + c),
        step(k),
        next(next_tile),
        bias(p.bias ? load(p.bias + c, k) : V{}),
        mean(load(p.mean + c, k)),
        scale(load(p.scale + c, k)),
        beta(load(p.beta + c, k)),
        keep_negative(vec<int32_t>{} - int32_t(p.activation != Activation::Relu)),
        negative_slope(p.activation == Activation::LeakyRelu ? float(p.negative_slope) : 1.0f) {}
  FASTGAN_INLINED void put(int64_t i, V v) {
    __builtin_prefetch(out + i + next, 1);
    const V u = fma((v + bias) - mean, scale, beta);
    const V negative = (V)((vec<int32_t>)(u * negative_slope) & keep_negative);
    store(out + i, u < 0.0f ? negative : u, step);
  }
  FASTGAN_INLINED void end_of_tile() {}
  FASTGAN_INLINED void finish(const WinogradProductParams&, int64_t, int64_t) {}
};

// Besides, number, mean and squared deviations of the channel. Sums are taken about a pivot near the mean, so that nothing
// cancels: the mean of what came before; at first the first value, but for one tile only, as that may be far off.
template <class Step>
struct StatisticsOutput {
  float* out;
  Step step;
  int64_t next;
  V bias, pivot = V{}, sum = V{}, square = V{};
  int64_t in_lanes = 0;  // values in sum and square
  double count = 0, mean[kLanes] = {}, deviation[kLanes] = {};
  StatisticsOutput(const WinogradProductParams& p, int64_t c, Step k, int64_t next_tile)
      : out(static_cast<float*>(p.out) + c), step(k), next(next_tile), bias(p.bias ? load(p.bias + c, k) : V{}) {}
  FASTGAN_INLINED void put(int64_t i, V v) {
    __builtin_prefetch(out + i + next, 1);
    v = v + bias;
    if (in_lanes == 0 && count == 0) pivot = v;
    const V d = v - pivot;
    sum += d;
    square = fma(d, d, square);
    in_lanes++;
    store(out + i, v, step);
  }
  FASTGAN_INLINED void end_of_tile() {
    if (in_lanes >= 1024 || count == 0) merge();
  }
  void merge() {
    if (in_lanes == 0) return;
    const double n = double(in_lanes), share = n / (count + n);
    for (int i = 0; i < kLanes; i++) {
      const double d = double(pivot[i]) + sum[i] / n - mean[i];
      mean[i] += d * share;
      deviation[i] += square[i] - double(sum[i]) * sum[i] / n + d * d * (count * share);
      pivot[i] = float(mean[i]);
    }
    count += n;
    in_lanes = 0;
    sum = square = V{};
  }
  void finish(const WinogradProductParams& p, int64_t at, int64_t channels) {
    merge();
    for (int64_t i = 0; i < channels; i++) {
      p.count[at + i] = count;
      p.block_mean[at + i] = mean[i];
      p.block_square[at + i] = deviation[i];
    }
  }
};

// Calls f(output) for channels [c, c + n) as the parameters ask.
template <class Step, class F>
FASTGAN_INLINE void with_output(const WinogradProductParams& p, int64_t c, Step k, int64_t next, F f) {
  if (p.count != nullptr) {
    StatisticsOutput<Step> output(p, c, k, next);
    return f(output);
  }
  with_weight_dtype(p.dtype, [&](auto element) FASTGAN_INLINED {
    using S = decltype(element);
    if (p.scale != nullptr) {
      ActivatedOutput<S, Step> output(p, c, k, next);
      f(output);
    } else {
      BiasOutput<S, Step> output(p, c, k, next);
      f(output);
    }
  });
}

// ---- products -------------------------------------------------------------------------------------------------------

// The 25 accumulators of one unit: rows x 4 vectors each, summed over all depths.
// `depth_of(d)`: length of depth d. `pack(d, to)`: its weights.
template <class Depth, class Pack>
FASTGAN_INLINE void multiply_points(const WinogradProductParams& p, int64_t rows, int64_t depths, const float* data,
                                    const float* packed, bool pack_now, Depth depth_of, Pack pack, bool one_slot) {
  const int64_t point = p.shape.point_stride(), panel = packed_stride(kLanes);
  const int64_t product = p.shape.product_stride(kLanes);
  for (int64_t d = 0; d < depths; d++) {
    const float* a = data + d * kPoints * point;
    const float* b = packed + (one_slot ? 0 : d * packed_block(kLanes));
    if (pack_now) pack(d, const_cast<float*>(b));
    const int64_t depth = depth_of(d);
    for (int64_t at = 0; at < kPoints; at++) {
      const float *next_a = a + point, *next_b = b + panel;
      float* c = p.scratch + at * product;
      multiply_panel<kDepthStride, 1, kUpper, kColumns4>(rows, depth, a, b, c, d > 0, next_a, b + kDepth * kUpper);
      multiply_panel<kDepthStride, 1, kUpper, kColumns4>(rows, depth, a, b + kDepth * kUpper, c + kUpper, d > 0, next_a,
                                                         next_b);
      a = next_a;
      b = next_b;
    }
  }
}

// One phase of one tile of the large side; c: its row and phase in the accumulators.
template <int Py, int Px, class Output>
FASTGAN_INLINE void interpolate_tile(const float* c, int64_t product, int64_t below, bool has_below, int64_t beside,
                                     bool has_beside, int64_t rows, int64_t columns, Output& output, int64_t first,
                                     int64_t row_stride, int64_t column_stride) {
  V half[4][6];  // columns of coefficients, the last one the neighbour's
#pragma GCC unroll 6
  for (int q = 0; q < 6; q++) {
    if (q == 5 && !has_beside) {
      half[0][5] = half[1][5] = half[2][5] = half[3][5] = V{};
      continue;
    }
    const float* from = q < 5 ? c + q * product : c + beside + (Px ? 0 : 4) * product;
    V e[5];
#pragma GCC unroll 5
    for (int r = 0; r < 5; r++) e[r] = load(from + r * 5 * product);
    V c1, c2, c3;
    interpolate_inner(e, c1, c2, c3);
    V edge = Py ? e[4] : e[0];
    if (has_below) edge += load(from + below + (Py ? 0 : 20) * product);
    half[0][q] = Py ? c1 : edge;
    half[1][q] = Py ? c2 : c1;
    half[2][q] = Py ? c3 : c2;
    half[3][q] = Py ? edge : c3;
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    if (r >= rows) break;
    const V e[5] = {half[r][0], half[r][1], half[r][2], half[r][3], half[r][4]};
    V c1, c2, c3;
    interpolate_inner(e, c1, c2, c3);
    const V edge = (Px ? e[4] : e[0]) + half[r][5];
    const V line[4] = {Px ? c1 : edge, Px ? c2 : c1, Px ? c3 : c2, Px ? edge : c3};
    const int64_t at = first + (2 * r + Py) * row_stride + Px * column_stride;
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
      if (q < columns) output.put(at + 2 * q * column_stride, line[q]);
    }
  }
  output.end_of_tile();
}

template <class Output>
FASTGAN_INLINE void interpolate_block(const WinogradProductParams& p, int64_t block, Output& output) {
  const WinogradShape& s = p.shape;
  const int64_t tiles = s.tile_columns(), product = s.product_stride(kLanes), channels = s.large_channels;
  const int64_t row_stride = 2 * s.width * channels, next_row = kColumns4 * tiles;
  const float* c = p.scratch;
  for (int64_t n = 0; n < s.images_of(block); n++) {
    const int64_t image = (block * s.block_images() + n) * 2 * s.height * row_stride;
    for (int64_t ty = 0; ty < s.tile_rows(); ty++) {
      const bool above = ty > 0, below = ty + 1 < s.tile_rows();
      const int64_t rows = at_most(s.height - ty * kTile, kTile);
      for (int64_t tx = 0; tx < tiles; tx++, c += kColumns4) {
        const bool before = tx > 0, after = tx + 1 < tiles;
        const int64_t columns = at_most(s.width - tx * kTile, kTile);
        const int64_t first = image + ty * 2 * kTile * row_stride + tx * 2 * kTile * channels;
        interpolate_tile<0, 0>(c, product, -next_row, above, -kColumns4, before, rows, columns, output, first, row_stride,
                               channels);
        interpolate_tile<0, 1>(c + kLanes, product, -next_row, above, kColumns4, after, rows, columns, output, first,
                               row_stride, channels);
        interpolate_tile<1, 0>(c + 2 * kLanes, product, next_row, below, -kColumns4, before, rows, columns, output, first,
                               row_stride, channels);
        interpolate_tile<1, 1>(c + 3 * kLanes, product, next_row, below, kColumns4, after, rows, columns, output, first,
                               row_stride, channels);
      }
    }
  }
}

void winograd_up(const WinogradProductParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  const int64_t depths = s.small_depths(), channels = s.large_channels;
  const bool one_slot = p.packed == nullptr && p.chunk.blocks == 1;
  float* slots = p.scratch + s.product(kLanes);
  int64_t packed_column = -1;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t column = unit / p.chunk.blocks, within = unit % p.chunk.blocks, block = p.chunk.first_block + within;
    const float* packed = p.packed ? p.packed + column * depths * packed_block(kLanes) : slots;
    const bool pack_now = p.packed == nullptr && column != packed_column;
    packed_column = column;
    multiply_points(
        p, s.images_of(block) * s.image_tiles(), depths, p.transformed + within * s.small_block(), packed, pack_now,
        [&](int64_t d) FASTGAN_INLINED { return at_most(s.small_channels - d * kDepth, kDepth); },
        [&](int64_t d, float* to) FASTGAN_INLINED { pack_up(s, p.dtype, p.weight, column, d, to); }, one_slot);
    const int64_t c = column * kLanes, count = at_most(channels - c, kLanes);
    const auto write = [&](auto k) FASTGAN_INLINED {
      with_output(p, c, k, 2 * kTile * channels, [&](auto& output) FASTGAN_INLINED {
        interpolate_block(p, block, output);
        output.finish(p, block * channels + c, count);
      });
    };
    if (count == kLanes) {
      write(whole{});
    } else {
      write(count);
    }
  }
}

// One vector of channels of one tile of the small side.
template <class Output>
FASTGAN_INLINE void values_tile(const float* c, int64_t product, int64_t rows, int64_t columns, Output& output, int64_t first,
                                int64_t row_stride, int64_t column_stride) {
  V half[5][4];
#pragma GCC unroll 5
  for (int q = 0; q < 5; q++) {
    V e[5];
#pragma GCC unroll 5
    for (int r = 0; r < 5; r++) e[r] = load(c + (r * 5 + q) * product);
    values_transposed(e, half[q]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    if (r >= rows) break;
    const V e[5] = {half[0][r], half[1][r], half[2][r], half[3][r], half[4][r]};
    V x[4];
    values_transposed(e, x);
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
      if (q < columns) output.put(first + r * row_stride + q * column_stride, x[q]);
    }
  }
}

void winograd_down(const WinogradProductParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  const int64_t depths = s.large_depths(), channels = s.small_channels, row_stride = s.width * channels;
  const bool one_slot = p.packed == nullptr && p.chunk.blocks == 1;
  float* slots = p.scratch + s.product(kLanes);
  int64_t packed_column = -1;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t column = unit / p.chunk.blocks, within = unit % p.chunk.blocks, block = p.chunk.first_block + within;
    const float* packed = p.packed ? p.packed + column * depths * packed_block(kLanes) : slots;
    const bool pack_now = p.packed == nullptr && column != packed_column;
    packed_column = column;
    multiply_points(
        p, s.images_of(block) * s.image_tiles(), depths, p.transformed + within * s.large_block(), packed, pack_now,
        [&](int64_t d) FASTGAN_INLINED { return 4 * padded(at_most(s.large_channels - d * kLargeDepth, kLargeDepth)); },
        [&](int64_t d, float* to) FASTGAN_INLINED { pack_down(s, p.dtype, p.weight, column, d, to); }, one_slot);
    for (int v = 0; v < 4; v++) {
      const int64_t channel = (column * 4 + v) * kLanes, count = at_most(channels - channel, kLanes);
      if (count <= 0) break;
      const auto write = [&](auto k) FASTGAN_INLINED {
        with_output(p, channel, k, kTile * channels, [&](auto& output) FASTGAN_INLINED {
          const float* c = p.scratch + v * kLanes;
          for (int64_t n = 0; n < s.images_of(block); n++) {
            for (int64_t ty = 0; ty < s.tile_rows(); ty++) {
              for (int64_t tx = 0; tx < s.tile_columns(); tx++, c += kColumns4) {
                const int64_t row = ((block * s.block_images() + n) * s.height + ty * kTile) * row_stride;
                values_tile(c, s.product_stride(kLanes), at_most(s.height - ty * kTile, kTile),
                            at_most(s.width - tx * kTile, kTile), output, row + tx * kTile * channels, row_stride, channels);
                output.end_of_tile();
              }
            }
          }
          output.finish(p, block * channels + channel, count);
        });
      };
      if (count == kLanes) {
        write(whole{});
      } else {
        write(count);
      }
    }
  }
}

// ---- gradient of the weight -----------------------------------------------------------------------------------------

// One point of one (small depth, large depth): c (small channels x phases of large channels) = or += small^T large.
FASTGAN_INLINE void gradient_point(const WinogradGradientParams& p, int64_t small_depth, int64_t large_depth, int64_t at,
                                   float* c, bool add) {
  const WinogradShape& s = p.shape;
  const int64_t point = s.point_stride(), rows = at_most(s.small_channels - small_depth * kDepth, kDepth);
  const int64_t columns = 4 * padded(at_most(s.large_channels - large_depth * kLargeDepth, kLargeDepth));
  for (int64_t within = 0; within < p.chunk.blocks; within++) {
    const int64_t tiles = s.images_of(p.chunk.first_block + within) * s.image_tiles();
    const float* a = p.small + within * s.small_block() + (small_depth * kPoints + at) * point;
    const float* b = p.large + within * s.large_block() + (large_depth * kPoints + at) * point;
    const bool last = within + 1 == p.chunk.blocks;
    const float* next_a = last ? a + point - within * s.small_block() : a + s.small_block();
    const float* next_b = last ? b + point - within * s.large_block() : b + s.large_block();
    for (int64_t column = 0; column < columns; column += kUpper) {
      multiply_panel<1, kDepthStride, kDepthStride, kDepth>(rows, tiles, a, b + column, c + column, add || within > 0,
                                                            next_a, next_b);
    }
  }
}

template <class S>
FASTGAN_INLINE void finish_row(const WinogradGradientParams& p, int64_t small_depth, int64_t large_depth, int64_t row,
                               const float* c) {
  const WinogradShape& s = p.shape;
  const int64_t small = small_depth * kDepth + row, first = large_depth * kLargeDepth;
  if (small >= s.small_channels) return;
  const int64_t count = at_most(s.large_channels - first, kLargeDepth), phase = padded(count);
  S* to = static_cast<S*>(p.grad_weight) + small * s.large_channels * 16;
  for (int64_t l = 0; l < count; l += kLanes) {
    V taps[16];
#pragma GCC unroll 4
    for (int f = 0; f < 4; f++) {
      const int y = first_tap(f / 2), x = first_tap(f % 2);
      V upper[5], lower[5];
#pragma GCC unroll 5
      for (int j = 0; j < 5; j++) {
        V u[5];
#pragma GCC unroll 5
        for (int i = 0; i < 5; i++) u[i] = load(c + (i * 5 + j) * kGradientStride + row * kDepth + f * phase + l);
        weights_transposed(u, upper[j], lower[j]);
      }
      weights_transposed(upper, taps[y * 4 + x], taps[y * 4 + x + 2]);
      weights_transposed(lower, taps[(y + 2) * 4 + x], taps[(y + 2) * 4 + x + 2]);
    }
    const int64_t rest = at_most(count - l, kLanes);
    if (p.channels_last) {
      S* at = to + first + l;
      for (int t = 0; t < 16; t++) {
        if (rest == kLanes) {
          store(at + t * s.large_channels, taps[t]);
        } else {
          store(at + t * s.large_channels, taps[t], rest);
        }
      }
    } else {
#pragma GCC unroll 4
      for (int q = 0; q < 16; q += kLanes) {
        V part[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) part[i] = taps[q + i];
        transpose(part);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) {
          if (i < rest) store(to + (first + l + i) * 16 + q, part[i]);
        }
      }
    }
  }
}

static __attribute__((noinline)) void finish_rows(const WinogradGradientParams& p, int64_t pair, int64_t begin, int64_t end,
                                                  const float* c) {
  const int64_t depths = p.shape.large_depths();
  with_weight_dtype(p.dtype, [&](auto e) FASTGAN_INLINED {
    for (int64_t row = begin; row < end; row++) finish_row<decltype(e)>(p, pair / depths, pair % depths, row, c);
  });
}

void winograd_gradient(const WinogradGradientParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.large_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    for (int64_t at = 0; at < kPoints; at++) {
      gradient_point(p, unit / depths, unit % depths, at, p.accumulators + at * kGradientStride, false);
    }
    finish_rows(p, unit, 0, kDepth, p.accumulators);
  }
}

void winograd_gradient_accumulate(const WinogradGradientParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.large_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t pair = unit / kPoints;
    gradient_point(p, pair / depths, pair % depths, unit % kPoints, p.accumulators + unit * kGradientStride, p.add);
  }
}

void winograd_gradient_finish(const WinogradGradientParams& p, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t pair = unit / kDepth, row = unit % kDepth;
    finish_rows(p, pair, row, row + 1, p.accumulators + pair * kPoints * kGradientStride);
  }
}
