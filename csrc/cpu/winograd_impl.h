// F(4x4, 2x2) and F(4x4, 3x3) of each phase; what is computed and in which layouts: winograd.h.
//
// Transforms work on one vector of channels at a time, all points in registers. A product unit computes, for one block and
// four vectors of columns, the accumulators of all points (rows x 4 vectors), depth by depth, then interpolates from L2
// straight into the output, where bias, statistics or normalisation are applied. Widths that are no multiple of the vector end in a
// masked step, depths that are no multiple of the vector are padded with zeros in both factors.
#include "cpu/winograd_points.h"

#include "cpu/gemm_kernel.h"

constexpr int kLanes = lanes<float>;
constexpr int kColumns4 = 4 * kLanes;  // columns of a product unit
constexpr int kUpper = kLanes * 2;     // columns of one panel, of which a unit has two

// What of a geometry the loops are unrolled by: phases and taps of a phase, along an axis. The coefficient j of a tile at T
// lies at pixel T + j - offset(f) of phase f, large pixel S (T + j - offset(f)) + f.
template <int Phases, int Taps>
struct Algorithm {
  static constexpr int phases = Phases, taps = Taps, all_phases = Phases * Phases, span = Phases * Taps;
  static constexpr int n = Points<Taps>::count, points = n * n;
  static constexpr int vectors = 4 / all_phases;  // vectors of large channels of one unit of `up`
  static constexpr int64_t large_depth = kDepth / all_phases;

  static constexpr int offset(int f) { return Taps == 2 ? f : 1; }
  // Tap s of phase f, s steps of S behind its first. (2 taps: kernel 4, padding 1; 3 taps: padding 1 or 2.)
  static constexpr int tap(int f, int s) { return Phases * s + (Taps == 2 ? 1 - f : f); }
  // The place of phase f at point (i, j); see WinogradShape::places.
  static constexpr int place(int f, int j) { return j == n - 1 ? f % Phases * Phases + f / Phases : f; }
};

// The same and the size of the kernel: taps past it are zero.
template <int Phases, int Taps, int Kernel>
struct Geometry : Algorithm<Phases, Taps> {
  static constexpr int kernel = Kernel, kernel_taps = Kernel * Kernel;
};

template <class F>
FASTGAN_INLINE void with_algorithm(const WinogradShape& s, F f) {
  if (s.stride == 1) return f(Algorithm<1, 3>{});
  if (s.taps() == 2) return f(Algorithm<2, 2>{});
  return f(Algorithm<2, 3>{});
}

template <class F>
FASTGAN_INLINE void with_geometry(const WinogradShape& s, F f) {
  if (s.stride == 1) return f(Geometry<1, 3, 3>{});
  if (s.kernel == 3) return f(Geometry<2, 2, 3>{});
  if (s.kernel == 4) return f(Geometry<2, 2, 4>{});
  return f(Geometry<2, 3, 5>{});
}

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

template <class A, bool Whole, class Image>
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
    V half[4][A::n];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      V x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const V v = image.load_at(first + rows.at[i] + columns.at[j] + c, k, of);
        x[i] = masked<Whole>(v, rows.mask[i] & columns.mask[j]);
      }
      Points<A::taps>::values(x, half[j]);
    }
    float* to = p.transformed + at.block * s.small_block() + c / kDepth * (A::points * point) + at.matrix_row * kDepthStride +
                c % kDepth;
#pragma GCC unroll 6
    for (int i = 0; i < A::n; i++) {
      const V x[4] = {half[0][i], half[1][i], half[2][i], half[3][i]};
      V e[A::n];
      Points<A::taps>::values(x, e);
#pragma GCC unroll 6
      for (int j = 0; j < A::n; j++) store(to + (i * A::n + j) * point, e[j]);
    }
  });
}

template <class A>
static void transform_small(const WinogradTransformParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  with_source(p, [&](auto image) FASTGAN_INLINED {
    for (int64_t unit = begin; unit < end; unit++) {
      const TilePlace at = place_of(s, p.chunk, unit);
      const Line<4> rows(at.row * kTile, 1, s.height, s.width * s.small_channels);
      const Line<4> columns(at.column * kTile, 1, s.width, s.small_channels);
      if (rows.whole && columns.whole) {
        transform_small_tile<A, true>(p, image, at, rows, columns);
      } else {
        transform_small_tile<A, false>(p, image, at, rows, columns);
      }
    }
  });
}

void winograd_transform_small(const WinogradTransformParams& p, int64_t begin, int64_t end) {
  with_algorithm(p.shape, [&](auto a) FASTGAN_INLINED { transform_small<decltype(a)>(p, begin, end); });
}

// One phase of one tile: n x n large-side pixels, every S-th one along each axis. `to` is of place 0, `at_infinity` what to add
// to reach the phase's place at the last points of the rows, `place` elsewhere.
template <class A, bool Whole, class Image, class Step, class Channels>
FASTGAN_INLINE void transform_phase(const Image& image, int64_t first, const Line<A::n>& rows, const Line<A::n>& columns,
                                    Step k, const Channels& of, float* to, int64_t place, int64_t at_infinity,
                                    int64_t point) {
  constexpr int n = A::n;
  V half[n][n];
#pragma GCC unroll 6
  for (int j = 0; j < n; j++) {
    V x[n];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) {
      x[i] = masked<Whole>(image.load_at(first + rows.at[i] + columns.at[j], k, of), rows.mask[i] & columns.mask[j]);
    }
    Points<A::taps>::interpolate_transposed(x, half[j]);
  }
#pragma GCC unroll 6
  for (int i = 0; i < n; i++) {
    V x[n], e[n];
#pragma GCC unroll 6
    for (int j = 0; j < n; j++) x[j] = half[j][i];
    Points<A::taps>::interpolate_transposed(x, e);
#pragma GCC unroll 6
    for (int j = 0; j < n; j++) store(to + (j == n - 1 ? at_infinity : place) + (i * n + j) * point, e[j]);
  }
}

template <class A, bool Whole, class Image>
FASTGAN_INLINE void transform_large_tile(const WinogradTransformParams& p, const Image& image, const TilePlace& at,
                                         const Line<A::n> (&rows)[A::phases], const Line<A::n> (&columns)[A::phases]) {
  const WinogradShape& s = p.shape;
  const int64_t channels = s.large_channels, point = s.point_stride();
  const int64_t width = A::phases * s.width, first = at.image * A::phases * s.height * width * channels;
  // The next row of tiles is read through once while this one is transformed.
  int64_t ahead = first + (A::phases * kTile * (at.row + 1) + 1) * width * channels + at.column * 16 * A::all_phases * channels;
  for_vectors<float>(channels, [&](int64_t c, auto k) FASTGAN_INLINED {
    const auto of = image.channels(c, k);
    const int64_t depth = c / A::large_depth, phase = padded(at_most(channels - depth * A::large_depth, A::large_depth));
    float* to = p.transformed + at.block * s.large_block() + depth * (A::points * point) + at.matrix_row * kDepthStride +
                c % A::large_depth;
    for (int f = 0; f < A::all_phases; f++) {
      for (int i = 0; i < 16; i++, ahead += 64 / sizeof(float)) image.prefetch(ahead);
      transform_phase<A, Whole>(image, first + c, rows[f / A::phases], columns[f % A::phases], k, of, to, f * phase,
                                A::place(f, A::n - 1) * phase, point);
    }
  });
}

// The pixels that phase f of a tile takes of an axis.
template <class A>
FASTGAN_INLINE Line<A::n> line_of(int f, int64_t tile, int64_t length, int64_t stride) {
  return {A::phases * (kTile * tile - A::offset(f)) + f, A::phases, length, stride};
}

template <class A>
static void transform_large(const WinogradTransformParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  const int64_t height = A::phases * s.height, width = A::phases * s.width, channels = s.large_channels;
  with_source(p, [&](auto image) FASTGAN_INLINED {
    for (int64_t unit = begin; unit < end; unit++) {
      const TilePlace at = place_of(s, p.chunk, unit);
      const auto work = [&](const Line<A::n>(&rows)[A::phases], const Line<A::n>(&columns)[A::phases]) FASTGAN_INLINED {
        bool whole = true;
        for (int f = 0; f < A::phases; f++) whole = whole && rows[f].whole && columns[f].whole;
        if (whole) {
          transform_large_tile<A, true>(p, image, at, rows, columns);
        } else {
          transform_large_tile<A, false>(p, image, at, rows, columns);
        }
      };
      const Line<A::n> top = line_of<A>(0, at.row, height, width * channels), left = line_of<A>(0, at.column, width, channels);
      if constexpr (A::phases == 1) {
        work({top}, {left});
      } else {
        work({top, line_of<A>(1, at.row, height, width * channels)}, {left, line_of<A>(1, at.column, width, channels)});
      }
    }
  });
}

void winograd_transform_large(const WinogradTransformParams& p, int64_t begin, int64_t end) {
  with_algorithm(p.shape, [&](auto a) FASTGAN_INLINED { transform_large<decltype(a)>(p, begin, end); });
}

// ---- transforms of the weight ---------------------------------------------------------------------------------------

// The taps of one kernel, each a vector over channels; those of a phase that the kernel is short of are zero.
template <class G>
struct Taps {
  V at[G::span][G::span];

  Taps() = default;
  // From vectors, tap t of the kernel at of[t].
  template <class Of>
  FASTGAN_INLINED explicit Taps(Of of) {
#pragma GCC unroll 6
    for (int y = 0; y < G::span; y++) {
#pragma GCC unroll 6
      for (int x = 0; x < G::span; x++) at[y][x] = y < G::kernel && x < G::kernel ? of(y * G::kernel + x) : V{};
    }
  }
};

// A kernel's taps in whole vectors, the last of which may reach past them.
template <class G>
constexpr int tap_vectors = (G::kernel_taps + kLanes - 1) / kLanes;

// The taps of `rows` kernels (kernel i at from + i * stride), a vector over these; kernels that are not there are zero.
// Nothing is read from `end` on.
template <class G, class S>
FASTGAN_INLINE Taps<G> load_taps(const S* from, int64_t stride, int64_t rows, const S* end) {
  V taps[tap_vectors<G> * kLanes];
#pragma GCC unroll 8
  for (int q = 0; q < tap_vectors<G>; q++) {
    V part[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) {
      const S* at = from + i * stride + q * kLanes;
      constexpr bool even = G::kernel_taps % kLanes == 0;
      part[i] = i >= rows ? V{} : even || at + kLanes <= end ? load(at) : load(at, G::kernel_taps - q * kLanes);
    }
    transpose(part);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) taps[q * kLanes + i] = part[i];
  }
  return Taps<G>([&](int t) FASTGAN_INLINED { return taps[t]; });
}

// The points of all phases of one kernel: at place f, point p it lies at to + place_offset(f) + p * packed_stride().
template <class G, class Offset>
FASTGAN_INLINE void transform_taps(const Taps<G>& taps, float* to, Offset place_offset) {
  constexpr int n = G::n;
#pragma GCC unroll 4
  for (int f = 0; f < G::all_phases; f++) {
    V columns[G::taps][n];
#pragma GCC unroll 3
    for (int x = 0; x < G::taps; x++) {
      V g[G::taps];
#pragma GCC unroll 3
      for (int y = 0; y < G::taps; y++) g[y] = taps.at[G::tap(f / G::phases, y)][G::tap(f % G::phases, x)];
      Points<G::taps>::weights(g, columns[x]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) {
      V g[G::taps], u[n];
#pragma GCC unroll 3
      for (int x = 0; x < G::taps; x++) g[x] = columns[x][i];
      Points<G::taps>::weights(g, u);
#pragma GCC unroll 6
      for (int j = 0; j < n; j++) store(to + place_offset(G::place(f, j)) + (i * n + j) * packed_stride(kLanes), u[j]);
    }
  }
}

// Packed for `up`: one vector of large channels in four phases, or four vectors in one; one depth of small channels.
//   (points, 2 halves of the places or vectors, small channel, 2 of them, large channel)
template <class G, class S>
FASTGAN_INLINE void pack_up(const WinogradShape& s, const WinogradWeight& weight, int64_t column, int64_t depth, float* to) {
  const int64_t large = s.large_channels;
  const int64_t first = depth * kDepth, last = at_most(first + kDepth, s.small_channels);
  const S* end = static_cast<const S*>(weight.data) + s.small_channels * large * G::kernel_taps;
  for (int64_t k = first; k < last; k++) {
    const S* from = static_cast<const S*>(weight.data) + k * large * G::kernel_taps;
    for (int v = 0; v < G::vectors; v++) {
      const int64_t c = (column * G::vectors + v) * kLanes, rest = at_least(at_most(large - c, kLanes), 0);
      Taps<G> taps;
      // rows are too far apart for the processor's own prefetching
      const S* ahead = from + 4 * large * G::kernel_taps + (weight.channels_last ? c : c * G::kernel_taps);
      for (int t = 0; t < G::kernel_taps; t++) __builtin_prefetch(ahead + t * (weight.channels_last ? large : int64_t(kLanes)));
      if (weight.channels_last) {
        taps = Taps<G>([&](int t) FASTGAN_INLINED {
          return rest == kLanes ? load(from + t * large + c) : load(from + t * large + c, rest);
        });
      } else {
        taps = load_taps<G>(from + c * G::kernel_taps, G::kernel_taps, rest, end);
      }
      transform_taps(taps, to + (k - first) * kUpper, [&](int place) FASTGAN_INLINED {
        const int vector = v + place;  // one of them is 0
        return vector / 2 * kDepth * kUpper + vector % 2 * kLanes;
      });
    }
  }
}

// Packed for `down`: four vectors of small channels, one depth of large channels.
//   (points, 2 halves of the small channels, place, large channel, small channel)
template <class G, class S>
FASTGAN_INLINE void pack_down(const WinogradShape& s, const WinogradWeight& weight, int64_t column, int64_t depth, float* to) {
  const int64_t large = s.large_channels, first = depth * G::large_depth, count = at_most(large - first, G::large_depth);
  const int64_t phase = padded(count);
  const S* end = static_cast<const S*>(weight.data) + s.small_channels * large * G::kernel_taps;
  for (int v = 0; v < 4; v++) {
    const int64_t row = (column * 4 + v) * kLanes, rows = at_least(at_most(s.small_channels - row, kLanes), 0);
    const S* from = static_cast<const S*>(weight.data) + row * large * G::kernel_taps;
    for (int64_t c0 = 0; c0 < phase; c0 += kLanes) {
      // Channels-last keeps the large channels of one tap together: transposed tap by tap, kept for the channels that follow.
      V staged[G::kernel_taps][kLanes];
      if (weight.channels_last) {
        const int64_t rest = at_least(at_most(count - c0, kLanes), 0);
        for (int t = 0; t < G::kernel_taps; t++) {
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; i++) {
            const S* at = from + (i * G::kernel_taps + t) * large + first + c0;
            staged[t][i] = i < rows ? (rest == kLanes ? load(at) : load(at, rest)) : V{};
          }
          transpose(staged[t]);
        }
      }
      for (int64_t i = 0; i < kLanes; i++) {
        const int64_t c = c0 + i;
        Taps<G> taps;
        if (c >= count) {
          taps = Taps<G>{};
        } else if (weight.channels_last) {
          taps = Taps<G>([&](int t) FASTGAN_INLINED { return staged[t][i]; });
        } else {
          taps = load_taps<G>(from + (first + c) * G::kernel_taps, large * G::kernel_taps, rows, end);
          for (int t = 0; t < kLanes; t++) __builtin_prefetch(from + (t * large + first + c + 8) * G::kernel_taps);
        }
        transform_taps(taps, to + v / 2 * kDepth * kUpper + c * kUpper + v % 2 * kLanes,
                       [&](int place) FASTGAN_INLINED { return place * phase * kUpper; });
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
  with_weight_dtype(dtype, [&](auto e) FASTGAN_INLINED {
    with_geometry(s, [&](auto g) FASTGAN_INLINED { pack_up<decltype(g), decltype(e)>(s, weight, column, depth, to); });
  });
}

static __attribute__((noinline)) void pack_down(const WinogradShape& s, DType dtype, const WinogradWeight& weight,
                                                int64_t column, int64_t depth, float* to) {
  with_weight_dtype(dtype, [&](auto e) FASTGAN_INLINED {
    with_geometry(s, [&](auto g) FASTGAN_INLINED { pack_down<decltype(g), decltype(e)>(s, weight, column, depth, to); });
  });
}

void winograd_pack_up(const WinogradPackParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.small_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    pack_up(p.shape, p.dtype, p.weight, unit / depths, unit % depths, p.packed + unit * p.shape.packed_block(kLanes));
  }
}

void winograd_pack_down(const WinogradPackParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.large_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    pack_down(p.shape, p.dtype, p.weight, unit / depths, unit % depths, p.packed + unit * p.shape.packed_block(kLanes));
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

// The accumulators of one unit: rows x 4 vectors at each point, summed over all depths.
// `depth_of(d)`: length of depth d. `pack(d, to)`: its weights.
template <bool Up, class Depth, class Pack>
FASTGAN_INLINE void multiply_points(const WinogradProductParams& p, int64_t rows, int64_t depths, const float* data,
                                    const float* packed, bool pack_now, Depth depth_of, Pack pack, bool one_slot) {
  const int64_t point = p.shape.point_stride(), panel = packed_stride(kLanes), points = p.shape.points();
  const int64_t product = p.shape.product_stride(kLanes), phases = p.shape.phases();
  for (int64_t d = 0; d < depths; d++) {
    const float* a = data + d * points * point;
    const float* b = packed + (one_slot ? 0 : d * p.shape.packed_block(kLanes));
    if (pack_now) pack(d, const_cast<float*>(b));
    const int64_t depth = depth_of(d);
    for (int64_t at = 0; at < points; at++) {
      const WinogradShape::Places places = p.shape.places(at);
      const float *next_a = a + point, *next_b = b + panel, *second = b + kDepth * kUpper;
      float* c = p.scratch + at * product;
      // Places are columns of `up`, of which zero ones are still to be written, and runs of the depth of `down`.
      const bool left = !Up || places.begin < 2, right = !Up || phases == 1 || places.end > 2;
      const int64_t skipped = Up ? 0 : depth / phases * places.begin, length = Up ? depth : depth / phases * places.count();
      multiply_panel<kDepthStride, 1, kUpper, kColumns4>(rows, left ? length : 0, a + skipped, b + skipped * kUpper, c, d > 0,
                                                         next_a, second);
      multiply_panel<kDepthStride, 1, kUpper, kColumns4>(rows, right ? length : 0, a + skipped, second + skipped * kUpper,
                                                         c + kUpper, d > 0, next_a, next_b);
      a = next_a;
      b = next_b;
    }
  }
}

// Which neighbours a tile has: those that come before and after it along each axis.
struct Neighbours {
  bool above, below, before, after;
};

// One phase of one tile of the large side; c: its row in the accumulators, with the vector where phases are vectors' places.
// rows, columns: how many of its 4x4 pixels there are. Pixel r of an axis is coefficient r + offset, the first also the last
// coefficient of the tile before, the last the first coefficient of the tile after it, where the phase has these.
template <class A, int Py, int Px, class Output>
FASTGAN_INLINE void interpolate_tile(const float* c, int64_t product, int64_t next_row, const Neighbours& has, int64_t rows,
                                     int64_t columns, Output& output, int64_t first, int64_t row_stride,
                                     int64_t column_stride) {
  using P = Points<A::taps>;
  constexpr int n = A::n, oy = A::offset(Py), ox = A::offset(Px);
  constexpr bool from_above = oy == A::taps - 2, from_below = oy == 1, from_before = ox == A::taps - 2, from_after = ox == 1;
  V half[4][n], edge_before[4], edge_after[4];
  // Column q of the points of the tile at `from`: the coefficients of its 4 rows.
  const auto column = [&](const float* from, int q, V(&to)[4]) FASTGAN_INLINED {
    from += q * product + A::place(Py * A::phases + Px, q) * kLanes;
    V e[n], k[n];
#pragma GCC unroll 6
    for (int r = 0; r < n; r++) e[r] = load(from + r * n * product);
    P::interpolate(e, k);
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) to[r] = k[r + oy];
    if (from_above && has.above) to[0] += load(from - next_row + (n - 1) * n * product);
    if (from_below && has.below) to[3] += load(from + next_row);
  };
#pragma GCC unroll 6
  for (int q = 0; q < n; q++) {
    V to[4];
    column(c, q, to);
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) half[r][q] = to[r];
  }
  for (int r = 0; r < 4; r++) edge_before[r] = edge_after[r] = V{};
  if (from_before && has.before) column(c - kColumns4, n - 1, edge_before);
  if (from_after && has.after) column(c + kColumns4, 0, edge_after);
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    if (r >= rows) break;
    V k[n];
    P::interpolate(half[r], k);
    if (from_before) k[ox] += edge_before[r];
    if (from_after) k[ox + 3] += edge_after[r];
    const int64_t at = first + (A::phases * r + Py) * row_stride + Px * column_stride;
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
      if (q < columns) output.put(at + A::phases * q * column_stride, k[q + ox]);
    }
  }
  output.end_of_tile();
}

// All tiles of a block, of one vector of channels; c: the vector's accumulators.
template <class A, class Output>
FASTGAN_INLINE void interpolate_block(const WinogradProductParams& p, int64_t block, const float* c, Output& output) {
  const WinogradShape& s = p.shape;
  const int64_t tiles = s.tile_columns(), product = s.product_stride(kLanes), channels = s.large_channels;
  const int64_t row_stride = A::phases * s.width * channels, next_row = kColumns4 * tiles, step = A::phases * kTile;
  for (int64_t n = 0; n < s.images_of(block); n++) {
    const int64_t image = (block * s.block_images() + n) * A::phases * s.height * row_stride;
    for (int64_t ty = 0; ty < s.tile_rows(); ty++) {
      const int64_t rows = at_most(s.height - ty * kTile, kTile);
      for (int64_t tx = 0; tx < tiles; tx++, c += kColumns4) {
        const Neighbours has{ty > 0, ty + 1 < s.tile_rows(), tx > 0, tx + 1 < tiles};
        const int64_t columns = at_most(s.width - tx * kTile, kTile);
        const int64_t first = image + ty * step * row_stride + tx * step * channels;
        interpolate_tile<A, 0, 0>(c, product, next_row, has, rows, columns, output, first, row_stride, channels);
        if constexpr (A::phases == 2) {
          interpolate_tile<A, 0, 1>(c, product, next_row, has, rows, columns, output, first, row_stride, channels);
          interpolate_tile<A, 1, 0>(c, product, next_row, has, rows, columns, output, first, row_stride, channels);
          interpolate_tile<A, 1, 1>(c, product, next_row, has, rows, columns, output, first, row_stride, channels);
        }
      }
    }
  }
}

template <class A>
static void up(const WinogradProductParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  const int64_t depths = s.small_depths(), channels = s.large_channels;
  const bool one_slot = p.packed == nullptr && p.chunk.blocks == 1;
  float* slots = p.scratch + s.product(kLanes);
  int64_t packed_column = -1;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t column = unit / p.chunk.blocks, within = unit % p.chunk.blocks, block = p.chunk.first_block + within;
    const float* packed = p.packed ? p.packed + column * depths * s.packed_block(kLanes) : slots;
    const bool pack_now = p.packed == nullptr && column != packed_column;
    packed_column = column;
    multiply_points<true>(
        p, s.images_of(block) * s.image_tiles(), depths, p.transformed + within * s.small_block(), packed, pack_now,
        [&](int64_t d) FASTGAN_INLINED { return at_most(s.small_channels - d * kDepth, kDepth); },
        [&](int64_t d, float* to) FASTGAN_INLINED { pack_up(s, p.dtype, p.weight, column, d, to); }, one_slot);
    for (int v = 0; v < A::vectors; v++) {
      const int64_t c = (column * A::vectors + v) * kLanes, count = at_most(channels - c, kLanes);
      if (count <= 0) break;
      const auto write = [&](auto k) FASTGAN_INLINED {
        with_output(p, c, k, A::phases * kTile * channels, [&](auto& output) FASTGAN_INLINED {
          interpolate_block<A>(p, block, p.scratch + v * kLanes, output);
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
}

void winograd_up(const WinogradProductParams& p, int64_t begin, int64_t end) {
  with_algorithm(p.shape, [&](auto a) FASTGAN_INLINED { up<decltype(a)>(p, begin, end); });
}

// One vector of channels of one tile of the small side.
template <class P, class Output>
FASTGAN_INLINE void values_tile(const float* c, int64_t product, int64_t rows, int64_t columns, Output& output, int64_t first,
                                int64_t row_stride, int64_t column_stride) {
  constexpr int n = P::count;
  V half[n][4];
#pragma GCC unroll 6
  for (int q = 0; q < n; q++) {
    V e[n];
#pragma GCC unroll 6
    for (int r = 0; r < n; r++) e[r] = load(c + (r * n + q) * product);
    P::values_transposed(e, half[q]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    if (r >= rows) break;
    V e[n], x[4];
#pragma GCC unroll 6
    for (int q = 0; q < n; q++) e[q] = half[q][r];
    P::values_transposed(e, x);
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
      if (q < columns) output.put(first + r * row_stride + q * column_stride, x[q]);
    }
  }
}

template <class A>
static void down(const WinogradProductParams& p, int64_t begin, int64_t end) {
  const WinogradShape& s = p.shape;
  const int64_t depths = s.large_depths(), channels = s.small_channels, row_stride = s.width * channels;
  const bool one_slot = p.packed == nullptr && p.chunk.blocks == 1;
  float* slots = p.scratch + s.product(kLanes);
  int64_t packed_column = -1;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t column = unit / p.chunk.blocks, within = unit % p.chunk.blocks, block = p.chunk.first_block + within;
    const float* packed = p.packed ? p.packed + column * depths * s.packed_block(kLanes) : slots;
    const bool pack_now = p.packed == nullptr && column != packed_column;
    packed_column = column;
    multiply_points<false>(
        p, s.images_of(block) * s.image_tiles(), depths, p.transformed + within * s.large_block(), packed, pack_now,
        [&](int64_t d) FASTGAN_INLINED {
          return A::all_phases * padded(at_most(s.large_channels - d * A::large_depth, A::large_depth));
        },
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
                values_tile<Points<A::taps>>(c, s.product_stride(kLanes), at_most(s.height - ty * kTile, kTile),
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

void winograd_down(const WinogradProductParams& p, int64_t begin, int64_t end) {
  with_algorithm(p.shape, [&](auto a) FASTGAN_INLINED { down<decltype(a)>(p, begin, end); });
}

// ---- gradient of the weight -----------------------------------------------------------------------------------------

// One point of one (small depth, large depth): c (small channels x phases of large channels) = or += small^T large.
FASTGAN_INLINE void gradient_point(const WinogradGradientParams& p, int64_t small_depth, int64_t large_depth, int64_t at,
                                   float* c, bool add) {
  const WinogradShape& s = p.shape;
  const int64_t point = s.point_stride(), rows = at_most(s.small_channels - small_depth * kDepth, kDepth);
  const int64_t phase = padded(at_most(s.large_channels - large_depth * s.large_depth(), s.large_depth()));
  const WinogradShape::Places places = s.places(at);
  for (int64_t within = 0; within < p.chunk.blocks; within++) {
    const int64_t tiles = s.images_of(p.chunk.first_block + within) * s.image_tiles();
    const float* a = p.small + within * s.small_block() + (small_depth * s.points() + at) * point;
    const float* b = p.large + within * s.large_block() + (large_depth * s.points() + at) * point;
    const bool last = within + 1 == p.chunk.blocks;
    const float* next_a = last ? a + point - within * s.small_block() : a + s.small_block();
    const float* next_b = last ? b + point - within * s.large_block() : b + s.large_block();
    for (int64_t column = places.begin * phase; column < places.end * phase; column += kUpper) {
      multiply_panel<1, kDepthStride, kDepthStride, kDepth>(rows, tiles, a, b + column, c + column, add || within > 0,
                                                            next_a, next_b);
    }
  }
}

template <class G, class S>
FASTGAN_INLINE void finish_row(const WinogradGradientParams& p, int64_t small_depth, int64_t large_depth, int64_t row,
                               const float* c) {
  constexpr int n = G::n, kernel = G::kernel, kernel_taps = G::kernel_taps;
  const WinogradShape& s = p.shape;
  const int64_t small = small_depth * kDepth + row, first = large_depth * G::large_depth;
  if (small >= s.small_channels) return;
  const int64_t count = at_most(s.large_channels - first, G::large_depth), phase = padded(count);
  S* to = static_cast<S*>(p.grad_weight) + small * s.large_channels * kernel_taps;
  for (int64_t l = 0; l < count; l += kLanes) {
    V taps[tap_vectors<G> * kLanes];
#pragma GCC unroll 4
    for (int f = 0; f < G::all_phases; f++) {
      V half[G::taps][n];
#pragma GCC unroll 6
      for (int j = 0; j < n; j++) {
        V u[n], g[G::taps];
#pragma GCC unroll 6
        for (int i = 0; i < n; i++) {
          u[i] = load(c + (i * n + j) * kGradientStride + row * kDepth + G::place(f, j) * phase + l);
        }
        Points<G::taps>::weights_transposed(u, g);
#pragma GCC unroll 3
        for (int t = 0; t < G::taps; t++) half[t][j] = g[t];
      }
#pragma GCC unroll 3
      for (int a = 0; a < G::taps; a++) {
        V g[G::taps];
        Points<G::taps>::weights_transposed(half[a], g);
        const int y = G::tap(f / G::phases, a);
#pragma GCC unroll 3
        for (int b = 0; b < G::taps; b++) {
          const int x = G::tap(f % G::phases, b);
          if (y < kernel && x < kernel) taps[y * kernel + x] = g[b];
        }
      }
    }
    const int64_t rest = at_most(count - l, kLanes);
    if (p.channels_last) {
      S* at = to + first + l;
      for (int t = 0; t < kernel_taps; t++) {
        if (rest == kLanes) {
          store(at + t * s.large_channels, taps[t]);
        } else {
          store(at + t * s.large_channels, taps[t], rest);
        }
      }
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < kernel_taps; q += kLanes) {
        V part[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) part[i] = q + i < kernel_taps ? taps[q + i] : V{};
        transpose(part);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) {
          S* at = to + (first + l + i) * kernel_taps + q;
          if (i >= rest) break;
          if (q + kLanes <= kernel_taps) {
            store(at, part[i]);
          } else {
            store(at, part[i], kernel_taps - q);
          }
        }
      }
    }
  }
}

static __attribute__((noinline)) void finish_rows(const WinogradGradientParams& p, int64_t pair, int64_t begin, int64_t end,
                                                  const float* c) {
  const int64_t depths = p.shape.large_depths();
  with_weight_dtype(p.dtype, [&](auto e) FASTGAN_INLINED {
    with_geometry(p.shape, [&](auto g) FASTGAN_INLINED {
      for (int64_t row = begin; row < end; row++) {
        finish_row<decltype(g), decltype(e)>(p, pair / depths, pair % depths, row, c);
      }
    });
  });
}

void winograd_gradient(const WinogradGradientParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.large_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    for (int64_t at = 0; at < p.shape.points(); at++) {
      gradient_point(p, unit / depths, unit % depths, at, p.accumulators + at * kGradientStride, false);
    }
    finish_rows(p, unit, 0, kDepth, p.accumulators);
  }
}

void winograd_gradient_accumulate(const WinogradGradientParams& p, int64_t begin, int64_t end) {
  const int64_t depths = p.shape.large_depths();
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t pair = unit / p.shape.points();
    gradient_point(p, pair / depths, pair % depths, unit % p.shape.points(), p.accumulators + unit * kGradientStride, p.add);
  }
}

void winograd_gradient_finish(const WinogradGradientParams& p, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t pair = unit / kDepth, row = unit % kDepth;
    finish_rows(p, pair, row, row + 1, p.accumulators + pair * p.shape.points() * kGradientStride);
  }
}
