// The walk of the elementwise normalisation kernels over their units, for *_impl.h files.

// Calls body(i, step, j) for every vector of units [begin, end): i is its first element in memory, j the entry of the
// per-channel arrays for it. Channels-first: one entry holds for the whole vector; channels-last: one entry a lane.
// `of_channel(layout, array, j, step)` reads such an array.
struct ChannelsFirstTag {};
struct ChannelsLastTag {};

template <class T>
FASTGAN_INLINE vec<T> of_channel(ChannelsFirstTag, const T* array, int64_t j, whole) {
  return broadcast(array[j]);
}
template <class T>
FASTGAN_INLINE vec<T> of_channel(ChannelsFirstTag, const T* array, int64_t j, int64_t) {
  return broadcast(array[j]);
}
template <class T, class Step>
FASTGAN_INLINE vec<T> of_channel(ChannelsLastTag, const T* array, int64_t j, Step k) {
  return load(array + j, k);
}

template <class T, class F>
FASTGAN_INLINE void for_units(const ImageShape& shape, ChannelsFirstTag, int64_t begin, int64_t end, F body) {
  const ElementwiseTiles tiles(shape);
  int64_t piece = begin % tiles.pieces, plane = begin / tiles.pieces, c = plane % shape.channels;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t offset = piece * tiles.length, first = plane * shape.pixels + offset;
    for_vectors<T>(at_most(tiles.length, shape.pixels - offset),
                   [&](int64_t i, auto k) FASTGAN_INLINED { body(first + i, k, c); });
    if (++piece == tiles.pieces) {
      piece = 0;
      plane++;
      if (++c == shape.channels) c = 0;
    }
  }
}

template <class T, class F>
FASTGAN_INLINE void for_units(const ImageShape& shape, ChannelsLastTag, int64_t begin, int64_t end, F body) {
  const ElementwiseTiles tiles(shape);
  const int64_t period = channel_period(shape), last = at_most(end * tiles.length, shape.numel());
  for (int64_t row = begin * tiles.length; row < last; row += period) {
    for_vectors<T>(at_most(period, last - row), [&](int64_t j, auto k) FASTGAN_INLINED { body(row + j, k, j); });
  }
}

// Calls f(tag) with the tag of the layout.
template <class F>
FASTGAN_INLINE void with_layout(Layout layout, F f) {
  if (layout == Layout::ChannelsFirst) {
    f(ChannelsFirstTag{});
  } else {
    f(ChannelsLastTag{});
  }
}
