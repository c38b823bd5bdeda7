// Convolutions of kernel 4, stride 2, padding 1 between a *small* image of many channels and a *large* one of 1 to 4:
// the last layer of a generator and the first of a discriminator, both directions.
#pragma once

#include "cpu/activation_kind.h"
#include "cpu/capability.h"

namespace fastgan::cpu {

constexpr int64_t kThinLargeChannels = 4;   // the most
constexpr int64_t kThinPadding = 16;        // small channels are padded to whole vectors of every capability
constexpr int64_t kThinMaxParts = 64;       // of sums over the batch
constexpr int64_t kThinPartBytes = 1 << 24;  // for all parts together

// small: (N, H, W, Cs), large: (N, 2H, 2W, Cl), channels fastest.
struct ThinConvShape {
  int64_t samples, height, width;  // N, H, W
  int64_t small_channels, large_channels;

  int64_t rows() const { return samples * height; }
  int64_t small_row() const { return width * small_channels; }
  int64_t large_row() const { return 2 * width * large_channels; }
  int64_t taps() const { return 16 * large_channels; }  // elements of the weight for one small channel
  int64_t padded_channels() const { return (small_channels + kThinPadding - 1) / kThinPadding * kThinPadding; }

  // Into how many parts a sum over the batch is cut: by the shape alone, so that results do not depend on the threads.
  int64_t parts() const {
    constexpr int64_t kElements = 32768;  // of the small image, in a part at least
    const int64_t bytes = (taps() + 1) * padded_channels() * int64_t(sizeof(double));
    int64_t parts = rows() * small_row() / kElements;
    parts = parts < kThinMaxParts ? parts : kThinMaxParts;
    parts = parts < kThinPartBytes / bytes ? parts : kThinPartBytes / bytes;
    parts = parts < rows() ? parts : rows();
    return parts > 1 ? parts : 1;
  }
};

// An image read as value * act'(output): a gradient on its way through an activation, or, with None, the value itself.
struct ThinConvImage {
  const void* value;
  const void* output;  // read unless activation is None
  Activation activation;
  double negative_slope;
};

struct ThinConvParams {
  DType dtype;  // of all images; not Float64
  ThinConvShape shape;
  ThinConvImage small, large;  // value is null where neither the result nor the sums need it
  bool up;                     // result = act(transposed convolution of small + bias), large; else of large, small
  void* result;                // or null
  // up: (Cs, 2, 4, 2, Cl), tap (ky, kx) of channel c at [s][kx / 2][ky][kx % 2][c];  else (4, 4, Cl, padded Cs)
  const float* weight;
  const float* bias;  // (Cl), or (padded Cs)
  Activation activation;
  double negative_slope;
  int64_t parts;         // part k: rows [k * N * H / parts, (k + 1) * N * H / parts) of the small image
  double* weight_sums;   // (parts, 4, 4, Cl, padded Cs): sum of small * large;  or null
  double* bias_sums;     // (parts, Cl or padded Cs): sum of the image that is not the result's;  or null
  bool sum_large;        // which image bias_sums is of
  float* scratch;        // ThinConvScratch::floats zeros, one array a thread
};

// The scratch memory of one thread, cut into the arrays of a row.
struct ThinConvScratch {
  int64_t floats = 0;
  float* small_row;      // (W, Cs)
  float* large_rows[4];  // (2W + 2, Cl): a zero pixel at both ends
  float* taps[2];        // (W + 2, taps): a zero pixel at both ends
  float* corners[2];     // (2W + 2, Cl)
  float* zeros;          // a row of large_rows or taps
  float* bias_row;       // (2W, Cl) or (padded Cs)
  float* block;          // (kBlock, padded Cs)
  float* weight_sum;     // (taps, padded Cs)
  float* bias_sum;       // (2W, Cl) or (padded Cs)

  static constexpr int64_t kBlock = 8;

  ThinConvScratch(const ThinConvShape& s, float* base) {
    const auto take = [&](int64_t size) {
      float* at = base == nullptr ? nullptr : base + floats;
      floats += (size + 31) / 16 * 16;  // vectors may reach past the end
      return at;
    };
    const int64_t padded_row = s.large_row() + 2 * s.large_channels, taps_row = (s.width + 2) * s.taps();
    const int64_t sums = s.large_row() > s.padded_channels() ? s.large_row() : s.padded_channels();
    small_row = take(s.small_row());
    for (float*& row : large_rows) row = take(padded_row);
    for (float*& row : taps) row = take(taps_row);
    for (float*& row : corners) row = take(padded_row);
    zeros = take(taps_row > padded_row ? taps_row : padded_row);
    bias_row = take(sums);
    block = take(kBlock * s.padded_channels());
    weight_sum = take(s.taps() * s.padded_channels());
    bias_sum = take(sums);
  }
};

// Units: parts. Without sums, consecutive units are worked as one.
FASTGAN_DECLARE_KERNEL(thin_conv, ThinConvParams)

}  // namespace fastgan::cpu
