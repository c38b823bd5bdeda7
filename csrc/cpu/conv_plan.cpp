// The cost model: time = fixed + sum of rate x amount, amounts being counted from the shape alone. The rates were fitted to the
// sweep of benchmarks/sweep_convolutions.py, geometry by geometry (Zen 5, two threads, AVX-512). Another machine has other
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

// One group, and padding such that the large side is `stride` times the small one.
bool scales(const ConvShape& s, int64_t kernel, int64_t stride) {
  if (empty(s) || s.weight[2] != kernel || s.weight[3] != kernel || s.groups != 1) return false;
  const int64_t padding = (kernel - 1) / 2;
  if (!both(s.stride, stride) || !both(s.padding, padding) || !both(s.dilation, 1)) return false;
  if (s.transposed) return both(s.output_padding, stride + 2 * padding - kernel);
  return both(s.output_padding, 0) && s.height % stride == 0 && s.width % stride == 0;
}

bool halves(const ConvShape& s) { return scales(s, 4, 2); }

bool covers(ConvKernel kernel, const ConvShape& s) {
  switch (kernel) {
    case ConvKernel::Winograd:
      return s.dtype == DType::Float32 && (halves(s) || scales(s, 3, 1) || scales(s, 3, 2) || scales(s, 5, 2));
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
  const int64_t divisor = s.transposed ? 1 : s.stride[0];
  return {s.images, s.height / divisor, s.width / divisor, s.weight[0], s.weight[1], s.weight[2], s.stride[0]};
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
  double multiply;     // multiply-adds of the products
  double transformed;  // floats of transformed images
  double product;      // floats of accumulators, each time they are added to
  double packed;       // floats of packed weights
  double unit;         // milliseconds a unit
  double margin;       // how much faster the estimate has to be: the model's error
};

struct AtenRates {
  double fixed, multiply, small, large, weight;  // floats of the small side, of the large side, of the weight
};

constexpr double kMillion = 1e6;
constexpr int64_t kFewChannels = 32;

// Rates of one geometry, by direction: up, down, gradient.
struct Rates {
  WinogradRates winograd[3];
  AtenRates aten[3];
};

constexpr Rates kKernel4Stride2 = {
    {{0.0127, 0.00796, 1.395, 0.212, 0.107, 0.0, 0.80},
     {0.0063, 0.00993, 0.524, 0.0, 0.123, 0.0, 0.85},
     {0.0, 0.01122, 0.524, 0.134, 0.0, 0.00125, 0.75}},
    {{0.0425, 0.00879, 3.738, 0.0, 0.532}, {0.0373, 0.00899, 0.299, 0.376, 0.533}, {0.0498, 0.0123, 0.0, 0.269, 0.970}}};
constexpr Rates kKernel3Stride2 = {
    {{0.0097, 0.00813, 3.211, 0.0, 0.072, 0.0043, 0.80},
     {0.0, 0.01044, 0.685, 0.005, 0.091, 0.0068, 0.85},
     {0.0026, 0.00977, 0.697, 0.0, 0.1, 0.0011, 0.75}},
    {{0.0143, 0.00882, 4.617, 0.172, 0.580}, {0.016, 0.0093, 1.823, 0.107, 0.569}, {0.0194, 0.01416, 0.973, 0.1, 0.457}}};
constexpr Rates kKernel3Stride1 = {
    {{0.0, 0.01119, 0.179, 0.021, 0.075, 0.0107, 0.72},
     {0.0071, 0.01021, 0.582, 0.0, 0.103, 0.0033, 0.75},
     {0.0164, 0.00966, 0.357, 0.148, 0.0, 0.0, 0.75}},
    {{0.0116, 0.00731, 1.696, 0.0, 0.42}, {0.0119, 0.00826, 0.931, 0.0, 0.412}, {0.0115, 0.01089, 0.503, 0.0, 0.264}}};
constexpr Rates kKernel5Stride2 = {
    {{0.002, 0.01083, 0.0, 0.193, 0.091, 0.0075, 0.80},
     {0.0, 0.01291, 0.203, 0.0, 0.099, 0.007, 0.85},
     {0.0, 0.01494, 0.228, 0.169, 0.0, 0.0005, 0.75}},
    {{0.0376, 0.00916, 4.507, 0.0, 0.577}, {0.0353, 0.0092, 0.724, 0.0, 0.406}, {0.0432, 0.01181, 0.687, 0.0, 0.948}}};

const Rates& rates_of(const WinogradShape& s) {
  if (s.stride == 1) return kKernel3Stride1;
  if (s.kernel == 3) return kKernel3Stride2;
  return s.kernel == 4 ? kKernel4Stride2 : kKernel5Stride2;
}

// Time of `units` equal pieces of work that take `serial` together, on `threads`.
double shared(double serial, int64_t units, int64_t threads) {
  return units <= 0 ? serial : serial * double(ceil_div(units, threads)) / double(units);
}

double winograd_time(const WinogradShape& s, Direction direction, int64_t threads) {
  const WinogradRates& rate = rates_of(s).winograd[int(direction)];
  const int64_t lanes = vector_lanes(), tiles = s.images * s.image_tiles(), phases = s.phases(), points = s.points();
  const int64_t large = ceil_div(s.large_channels, lanes) * lanes, small = s.small_channels;
  int64_t depth = small, columns = s.up_columns(lanes) * 4 * lanes, transformed = small, times = s.small_depths();
  int64_t packed = points * small * columns, units = s.up_columns(lanes) * s.blocks();
  if (direction == Direction::Down) {
    depth = transformed = phases * large;
    columns = s.down_columns(lanes) * 4 * lanes;
    times = s.large_depths();
    packed = points * phases * columns * large;
    units = s.down_columns(lanes) * s.blocks();
  } else if (direction == Direction::Gradient) {
    columns = phases * large;
    transformed = small + columns;
    units = s.small_depths() * s.large_depths() * (s.small_depths() * s.large_depths() < 8 ? points : 1);
  }
  const double products = double(s.products()) / double(phases);  // a tile's, of all phases
  const double multiplies = products * double(tiles) * double(depth * columns) * 16 / double(lanes);
  const double accumulated = direction == Direction::Gradient ? double(s.blocks() * points) * double(small * columns)
                                                              : double(times * points * tiles * columns);
  const double work = rate.multiply * multiplies + rate.product * accumulated + rate.packed * double(packed);
  return rate.fixed + rate.unit * double(units) + rate.transformed * double(points * tiles * transformed) / kMillion / threads +
         shared(work / kMillion, units, threads);
}

double aten_time(const WinogradShape& s, Direction direction, int64_t threads) {
  const AtenRates& rate = rates_of(s).aten[int(direction)];
  const double pixels = double(s.images * s.height * s.width);
  const double weight = double(s.kernel * s.kernel * s.small_channels * s.large_channels);
  const double work = rate.multiply * pixels * weight * 16 / double(vector_lanes()) + rate.small * pixels * s.small_channels +
                      rate.large * s.phases() * pixels * s.large_channels + rate.weight * weight;
  return rate.fixed + work / kMillion / threads;
}

bool winograd_pays(const ConvShape& s, ConvProduct product, int64_t threads) {
  const WinogradShape shape = winograd_shape(s);
  // Of few channels the model knows too little: what 3x3 saves in multiplications goes into the transforms.
  if (shape.kernel == 3 && at_most(shape.small_channels, shape.large_channels) < kFewChannels) return false;
  const Direction direction = direction_of(s, product);
  const double margin = rates_of(shape).winograd[int(direction)].margin;
  return winograd_time(shape, direction, threads) < margin * aten_time(shape, direction, threads);
}

// ATen has a kernel of its own for the convolution of one channel, which is the faster where the result is not small and still
// fits in the cache.
bool thin_pays(const ConvShape& s, ConvProduct product) {
  const WinogradShape shape = winograd_shape(s);
  const int64_t elements = shape.images * shape.height * shape.width * shape.small_channels;
  const bool output = !s.transposed && product == ConvProduct::Output;
  return !output || shape.large_channels > 2 || elements <= (1 << 19) || elements > (1 << 21);
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

namespace {

// The kernel of this name, -1 for "auto", -2 for a word that is neither.
int parsed(const std::string& word) {
  for (const ConvKernel kernel : {ConvKernel::Aten, ConvKernel::Winograd, ConvKernel::Thin, ConvKernel::Matmul}) {
    if (word == name(kernel)) return int(kernel);
  }
  return word == "auto" ? -1 : -2;
}

}  // namespace

bool knows_planned(const std::string& word) { return parsed(word) != -2; }

void set_planned(const std::string& word) { forced = parsed(word); }

}  // namespace fastgan::cpu
