// How the normalisation kernels cut an image batch into units of work. Everything here depends on the shape alone, never on
// the number of threads, so that results do not either.
#pragma once

#include <cstdint>

#include "cpu/image.h"

namespace fastgan::cpu {

constexpr int64_t kTileElements = 16384;      // an elementwise unit: long enough to hide its start, short enough to balance
constexpr int64_t kPartElements = 65536;      // least size of one part of a reduction
constexpr int64_t kMaxParts = 64;             // bounds the memory of partial results
constexpr int64_t kChunkElements = 4096;      // what float accumulates before it is added to double; it stays in L1
constexpr int64_t kColumns = 512;             // channels-last reductions: columns in one pass, accumulators stay in L1

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Channels-last rows of few channels are handled several at a time, as one row of `period` virtual channels, so that
// vectors are full: 3 channels become 48 x 4. Per-channel arguments are arrays of `period` values, entry j for channel
// j % channels. Channels-first: period is the number of channels.
inline int64_t channel_period(const ImageShape& shape) {
  const int64_t channels = shape.channels;
  if (shape.layout == Layout::ChannelsFirst || channels == 0) return channels;
  int64_t period = channels;
  while (period % 16 != 0 && period <= 512) period *= 2;
  if (period % 16 != 0) return channels;
  while (period < 128) period *= 2;
  return period;
}

// ---- elementwise ----------------------------------------------------------------------------------------------------

// Channels-first: pieces of at most kTileElements of a plane. Channels-last: runs of whole periods.
struct ElementwiseTiles {
  int64_t pieces;  // channels-first: pieces in a plane
  int64_t length;  // elements in a unit, the last one of a plane or of the batch may be shorter
  int64_t units;

  explicit ElementwiseTiles(const ImageShape& shape) {
    if (shape.numel() == 0) {
      pieces = length = units = 0;
    } else if (shape.layout == Layout::ChannelsFirst) {
      pieces = ceil_div(shape.pixels, kTileElements);
      length = at_most(shape.pixels, kTileElements);
      units = shape.samples * shape.channels * pieces;
    } else {
      const int64_t period = channel_period(shape);
      pieces = 1;
      length = at_least(kTileElements / period, 1) * period;
      units = ceil_div(shape.numel(), length);
    }
  }
};

// ---- reductions over everything but the channel ---------------------------------------------------------------------

// Part k of `parts` holds elements (rows, in channels-last) [k * count / parts, (k + 1) * count / parts) of every channel,
// count = samples * pixels. Units: parts * channels, channel fastest (channels-first); parts (channels-last).
// Results are arrays (parts, channels), to be combined in the order of the parts.
struct ReductionTiles {
  int64_t parts;
  int64_t units;

  explicit ReductionTiles(const ImageShape& shape) {
    const bool planes = shape.layout == Layout::ChannelsFirst;
    const int64_t size = planes ? shape.per_channel() : shape.numel();
    parts = at_most(at_least(size / kPartElements, 1), kMaxParts);
    parts = at_least(at_most(parts, shape.per_channel()), 1);
    units = planes ? parts * shape.channels : parts;
  }
};

}  // namespace fastgan::cpu
