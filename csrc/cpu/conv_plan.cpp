// The cost model: time = fixed + sum of rate x amount, amounts being counted from the shape alone. The rates were fitted to the
// sweep of benchmarks/sweep_convolutions.py (Zen 5, two threads, AVX-512). Another machine has other
// rates, but what decides is the ratio of two sums that are of the same kind: multiply-adds and floats moved.
#include "cpu/conv_plan.h"

#include <atomic>

#include "cpu/thin_conv.h"
#include "cpu/winograd.h"

namespace fastgan::cpu {
namespace {

std::atomic<int> forced{-1};

bool both(const int64_t (&values)[2], int64_t wanted) { return values[0] == wanted && values[1] == wanted; }

bool empty(const ConvShape& s) {
  return s.images <= 0 || s.height <= 0 || s.width <= 0 || s.weight[0] <= 0 || s.weight[1] <= 0;
}

// Kernel 4, stride 2, padding 1, one group, an even large side.
bool halves(const ConvShape& s) {
  if (empty(s) || s.weight[2] != 4 || s.weight[3] != 4 || s.groups != 1) return false;
  if (!both(s.stride, 2) || !both(s.padding, 1) || !both(s.dilation, 1) || !both(s.output_padding, 0)) return false;
  return s.transposed || (s.height % 2 == 0 && s.width % 2 == 0);
}

bool covers(ConvKernel kernel, const ConvShape& s) {
  switch (kernel) {
    case ConvKernel::Winograd: return halves(s) && s.dtype == DType::Float32;
    case ConvKernel::Thin: return halves(s) && s.dtype != DType::Float64 && s.weight[1] <= kThinLargeChannels;
    case ConvKernel::Matmul: {
      if (empty(s) || s.groups != 1 || !both(s.padding, 0) || !both(s.dilation, 1)) return false;
      if (s.transposed) return s.height == 1 && s.width == 1 && both(s.output_padding, 0);
      return s.height == s.weight[2] && s.width == s.weight[3];
    }
    case ConvKernel::Aten: break;
  }
  return true;
}

WinogradShape winograd_shape(const ConvShape& s) {
  const int64_t halves = s.transposed ? 1 : 2;
  return {s.images, s.height / halves, s.width / halves, s.weight[0], s.weight[1]};
}

// The three products of winograd.h.
enum class Direction { Up, Down, Gradient };

Direction direction_of(const ConvShape& s, ConvProduct product) {
  if (product == ConvProduct::WeightGradient) return Direction::Gradient;
  return s.transposed == (product == ConvProduct::Output) ? Direction::Up : Direction::Down;
}

// Milliseconds a million of each amount, on one thread.
struct WinogradRates {
  double fixed;        // milliseconds
  double multiply;     // multiply-adds of the 25 products
  double transformed;  // floats of transformed images
  double product;      // floats of accumulators, each time they are added to
  double packed;       // floats of packed weights
  double pair;         // milliseconds a unit of the gradient
  double margin;       // how much faster the estimate has to be: the model's error
};

struct AtenRates {
  double fixed, multiply, small, large, weight;  // floats of the small side, of the large side, of the weight
};

constexpr double kMillion = 1e6;

WinogradRates winograd_rates(Direction direction) {
  switch (direction) {
    case Direction::Up: return {0.0127, 0.00796, 1.395, 0.212, 0.107, 0.0, 0.80};
    case Direction::Down: return {0.0063, 0.00993, 0.524, 0.0, 0.123, 0.0, 0.85};
    case Direction::Gradient: break;
  }
  return {0.0, 0.01122, 0.524, 0.134, 0.0, 0.00125, 0.75};
}

AtenRates aten_rates(Direction direction) {
  switch (direction) {
    case Direction::Up: return {0.0425, 0.00879, 3.738, 0.0, 0.532};
    case Direction::Down: return {0.0373, 0.00899, 0.299, 0.376, 0.533};
    case Direction::Gradient: break;
  }
  return {0.0498, 0.0123, 0.0, 0.269, 0.970};
}

// Time of `units` equal pieces of work that take `serial` together, on `threads`.
double shared(double serial, int64_t units, int64_t threads) {
  return units <= 0 ? serial : serial * double(ceil_div(units, threads)) / double(units);
}

double winograd_time(const WinogradShape& s, Direction direction, int64_t threads) {
  const WinogradRates rate = winograd_rates(direction);
  const int64_t lanes = vector_lanes(), tiles = s.images * s.image_tiles();
  const int64_t large = ceil_div(s.large_channels, lanes) * lanes, small = s.small_channels;
  int64_t depth = small, columns = 4 * large, transformed = small, times = s.small_depths(), packed = 100 * small * large;
  int64_t units = s.up_columns(lanes) * s.blocks();
  if (direction == Direction::Down) {
    depth = transformed = 4 * large;
    columns = s.down_columns(lanes) * 4 * lanes;
    times = s.large_depths();
    packed = 100 * columns * large;
    units = s.down_columns(lanes) * s.blocks();
  } else if (direction == Direction::Gradient) {
    transformed = small + 4 * large;
    units = s.small_depths() * s.large_depths() * (s.small_depths() * s.large_depths() < 8 ? kPoints : 1);
  }
  const double multiplies = double(kPoints * tiles) * double(depth * columns) * 16 / double(lanes);
  const double accumulated = direction == Direction::Gradient ? double(s.blocks() * kPoints) * double(small * columns)
                                                              : double(times * kPoints * tiles * columns);
  const double work = rate.multiply * multiplies + rate.product * accumulated + rate.packed * double(packed);
  return rate.fixed + rate.pair * double(units) + rate.transformed * double(kPoints * tiles * transformed) / kMillion / threads +
         shared(work / kMillion, units, threads);
}

double aten_time(const WinogradShape& s, Direction direction, int64_t threads) {
  const AtenRates rate = aten_rates(direction);
  const double pixels = double(s.images * s.height * s.width), weight = 16.0 * s.small_channels * s.large_channels;
  const double work = rate.multiply * pixels * weight * 16 / double(vector_lanes()) + rate.small * pixels * s.small_channels +
                      rate.large * 4 * pixels * s.large_channels + rate.weight * weight;
  return rate.fixed + work / kMillion / threads;
}

bool winograd_pays(const ConvShape& s, ConvProduct product, int64_t threads) {
  const WinogradShape shape = winograd_shape(s);
  const Direction direction = direction_of(s, product);
  return winograd_time(shape, direction, threads) < winograd_rates(direction).margin * aten_time(shape, direction, threads);
}

// ATen has a kernel of its own for the convolution of one channel, which is the faster on large images.
bool thin_pays(const ConvShape& s, ConvProduct product) {
  const WinogradShape shape = winograd_shape(s);
  const int64_t elements = shape.images * shape.height * shape.width * shape.small_channels;
  return direction_of(s, product) != Direction::Down || shape.large_channels > 2 || elements <= (1 << 17);
}

}  // namespace

const char* name(ConvKernel kernel) {
  switch (kernel) {
    case ConvKernel::Winograd: return "winograd";
    case ConvKernel::Thin: return "thin";
    case ConvKernel::Matmul: return "matmul";
    case ConvKernel::Aten: break;
  }
  return "aten";
}

ConvKernel plan(const ConvShape& s, ConvProduct product, int64_t threads) {
  const int wanted = forced.load(std::memory_order_relaxed);
  if (wanted >= 0) return covers(ConvKernel(wanted), s) ? ConvKernel(wanted) : ConvKernel::Aten;
  if (covers(ConvKernel::Matmul, s)) return ConvKernel::Matmul;
  if (capability() == Capability::DEFAULT) return ConvKernel::Aten;
  if (covers(ConvKernel::Thin, s)) return thin_pays(s, product) ? ConvKernel::Thin : ConvKernel::Aten;
  if (!covers(ConvKernel::Winograd, s)) return ConvKernel::Aten;
  return winograd_pays(s, product, threads > 0 ? threads : 1) ? ConvKernel::Winograd : ConvKernel::Aten;
}

bool ever_covered(ConvShape s) {
  s.dtype = DType::Float32;
  s.images = 1;
  const int64_t kernel[2] = {s.weight[2], s.weight[3]}, one[2] = {1, 1}, even[2] = {2 * kernel[0], 2 * kernel[1]};
  for (const auto* size : {kernel, one, even}) {  // what `covers` tells apart
    s.height = size[0];
    s.width = size[1];
    for (const ConvKernel ours : {ConvKernel::Winograd, ConvKernel::Thin, ConvKernel::Matmul}) {
      if (covers(ours, s)) return true;
    }
  }
  return false;
}

bool set_planned(const std::string& word) {
  if (word == "auto") {
    forced = -1;
    return true;
  }
  for (const ConvKernel kernel : {ConvKernel::Aten, ConvKernel::Winograd, ConvKernel::Thin, ConvKernel::Matmul}) {
    if (word != name(kernel)) continue;
    forced = int(kernel);
    return true;
  }
  return false;
}

}  // namespace fastgan::cpu
