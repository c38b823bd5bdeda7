// Transforms and products of cpu/winograd.h on torch's threads, chunk by chunk of the batch.
#include "ops/winograd_cpu.h"

#include <algorithm>
#include <memory>

#include "ops/layout_cpu.h"
#include "ops/pooled_tensor.h"
#include "ops/tensor_cpu.h"
#include "ops/workspace.h"

namespace fastgan::ops {
namespace {

using cpu::WinogradChunk;
using cpu::WinogradShape;

constexpr int64_t kChunkFloats = int64_t(2) << 20;  // transformed data of one chunk: it is read from the cache again
constexpr int64_t kFewUnits = 8;                    // with fewer in a chunk threads would wait: up to 4 times as much data
constexpr int64_t kTurnElements = 65536;            // of an image: what a thread transforms in one turn
constexpr int64_t kFewPairs = 8;                    // gradient units below which points become units too

// Cuts the blocks into chunks whose transformed data is at most kChunkFloats, or as much as the packed weights, which are read
// once a chunk; `columns`: units of the product that a block gives.
struct Chunks {
  int64_t blocks, count, length;  // length: blocks of one chunk
  Chunks(const WinogradShape& shape, int64_t floats_per_block, int64_t packed_floats, int64_t columns)
      : blocks(shape.blocks()) {
    const int64_t wanted = cpu::at_most(cpu::ceil_div(kFewUnits, columns), 4 * kChunkFloats / floats_per_block);
    const int64_t fitting = std::max({std::max(kChunkFloats, packed_floats) / floats_per_block, wanted, int64_t(1)});
    length = cpu::ceil_div(blocks, cpu::ceil_div(blocks, fitting));
    count = cpu::ceil_div(blocks, length);
  }
  WinogradChunk operator[](int64_t i) const { return {i * length, cpu::at_most(length, blocks - i * length)}; }
};

int64_t tiles_of(const WinogradShape& shape, const WinogradChunk& chunk) {
  const int64_t first = chunk.first_block * shape.block_images();
  return cpu::at_most(chunk.blocks * shape.block_images(), shape.images - first) * shape.image_tiles();
}

// The two directions of a product, and what belongs to each.
struct Direction {
  bool up;
  const WinogradShape& shape;
  int64_t lanes = cpu::vector_lanes();

  int64_t columns() const { return up ? shape.up_columns(lanes) : shape.down_columns(lanes); }
  int64_t depths() const { return up ? shape.small_depths() : shape.large_depths(); }
  int64_t source_block() const { return up ? shape.small_block() : shape.large_block(); }
  int64_t packed_floats() const { return columns() * depths() * shape.packed_block(lanes); }

  void pack(const cpu::WinogradPackParams& params) const {
    parallel(columns() * depths(), packed_floats(), [&](int64_t begin, int64_t end) {
      up ? cpu::winograd_pack_up(params, begin, end) : cpu::winograd_pack_down(params, begin, end);
    });
  }
  void multiply(const cpu::WinogradProductParams& params) const {
    const int64_t scratch_floats = shape.product(lanes) + (params.packed ? 0 : depths() * shape.packed_block(lanes));
    // A column's blocks stay together where its weights are packed on the way.
    const int64_t step = params.packed ? 1 : params.chunk.blocks;
    parallel_by_turns(columns() * params.chunk.blocks, step, [&] {
      auto scratch = std::make_shared<Workspace>(scratch_floats);
      cpu::WinogradProductParams mine = params;
      mine.scratch = scratch->data();
      return [this, scratch, mine](int64_t begin, int64_t end) {
        up ? cpu::winograd_up(mine, begin, end) : cpu::winograd_down(mine, begin, end);
      };
    });
  }
};

void transform(bool small, const cpu::WinogradTransformParams& params) {
  const int64_t tiles = tiles_of(params.shape, params.chunk);
  const WinogradShape& s = params.shape;
  const int64_t elements = 16 * (small ? s.small_channels : s.phases() * s.large_channels);  // of a tile
  parallel_by_turns(tiles, cpu::ceil_div(kTurnElements, elements), [&] {
    return [&](int64_t begin, int64_t end) {
      small ? cpu::winograd_transform_small(params, begin, end) : cpu::winograd_transform_large(params, begin, end);
    };
  });
}

}  // namespace

Normalization::Normalization(const ChannelVectors& v, Activation activation_, double negative_slope_)
    : mean(v.mean.begin(), v.mean.end()),
      scale(v.scale.begin(), v.scale.end()),
      beta(v.beta.begin(), v.beta.end()),
      offset(v.offset.begin(), v.offset.end()),
      slope_z(v.slope_z.begin(), v.slope_z.end()),
      activation(activation_),
      negative_slope(negative_slope_) {}

Normalization::Normalization(int64_t channels, Activation activation_, double negative_slope_)
    : mean(channels, 0.0f),
      scale(channels, 1.0f),
      beta(channels, 0.0f),
      offset(channels, 0.0f),
      slope_z(channels, 0.0f),
      activation(activation_),
      negative_slope(negative_slope_) {}

Winograd::Winograd(const ConvArguments& conv, const Tensor& x, const Tensor& weight)
    : up_(conv.transposed),
      channels_last_(output_is_channels_last(x, weight)),
      x_(in_format_cpu(x, true)),
      weight_(weight.is_contiguous() || is_channels_last(weight) ? weight : torch::stable::contiguous(weight)),
      weight_channels_last_(!weight_.is_contiguous()) {
  const int64_t stride = conv.stride[0], divisor = conv.transposed ? 1 : stride;
  shape_ = {x.size(0), x.size(2) / divisor, x.size(3) / divisor, weight.size(0), weight.size(1), weight.size(2), stride};
}

Tensor Winograd::new_side(bool large) const {
  const int64_t factor = large ? shape_.stride : 1;
  return pooled_in_format(x_, {shape_.images, large ? shape_.large_channels : shape_.small_channels,
                              factor * shape_.height, factor * shape_.width},
                         x_.scalar_type(), true);
}

Tensor Winograd::forward(const OptionalTensor& bias, const Normalization* norm, PartialStatistics* statistics) const {
  const Direction direction{up_, shape_};
  const Chunks chunks(shape_, direction.source_block(), direction.packed_floats(), direction.columns());
  Tensor out = new_side(up_);
  const Tensor dense_bias = bias.has_value() ? torch::stable::contiguous(*bias) : x_;

  cpu::WinogradTransformParams source{};
  source.dtype = cpu::DType::Float32;
  source.shape = shape_;
  source.image = x_.const_data_ptr();
  cpu::WinogradProductParams product{};
  product.dtype = source.dtype;
  product.shape = shape_;
  product.weight = weight_view();
  product.out = out.mutable_data_ptr();
  product.bias = bias.has_value() ? dense_bias.const_data_ptr<float>() : nullptr;
  if (norm != nullptr) {
    product.mean = norm->mean.data();
    product.scale = norm->scale.data();
    product.beta = norm->beta.data();
    product.activation = norm->activation;
    product.negative_slope = norm->negative_slope;
  }
  if (statistics != nullptr) {
    *statistics = PartialStatistics(shape_.blocks(), up_ ? shape_.large_channels : shape_.small_channels);
    product.count = statistics->count.data();
    product.block_mean = statistics->mean.data();
    product.block_square = statistics->square.data();
  }

  const Workspace transformed(chunks.length * direction.source_block());
  const Workspace packed(chunks.count > 1 ? direction.packed_floats() : 0);
  if (chunks.count > 1) {
    direction.pack({source.dtype, shape_, weight_view(), packed.data()});
    product.packed = packed.data();
  }
  source.transformed = transformed.data();
  product.transformed = transformed.data();
  for (int64_t i = 0; i < chunks.count; i++) {
    source.chunk = product.chunk = chunks[i];
    transform(up_, source);
    direction.multiply(product);
  }
  return result_in_format(out, channels_last_);
}

std::array<Tensor, 2> Winograd::backward(const Tensor& grad_of, const OptionalTensor& z_of, const Normalization* norm,
                                         bool need_x, bool need_weight) const {
  const Tensor grad = in_format_cpu(grad_of, true), z = z_of.has_value() ? in_format_cpu(*z_of, true) : grad;
  const Direction direction{!up_, shape_};  // of the gradient of x: the gradient is transformed as its source
  const int64_t per_block = direction.source_block() + (need_weight ? Direction{up_, shape_}.source_block() : 0);
  const Chunks chunks(shape_, per_block, need_x ? direction.packed_floats() : 0, direction.columns());
  const Workspace gradient_data(chunks.length * direction.source_block());
  const Workspace x_data(need_weight ? chunks.length * (per_block - direction.source_block()) : 0);

  cpu::WinogradTransformParams from_gradient{}, from_x{};
  from_gradient.dtype = cpu::DType::Float32;
  from_gradient.shape = shape_;
  from_gradient.image = grad.const_data_ptr();
  from_gradient.transformed = gradient_data.data();
  if (norm != nullptr) {
    from_gradient.z = z.const_data_ptr();
    from_gradient.mean = norm->mean.data();
    from_gradient.scale = norm->scale.data();
    from_gradient.beta = norm->beta.data();
    from_gradient.offset = norm->offset.data();
    from_gradient.slope_z = norm->slope_z.data();
    from_gradient.activation = norm->activation;
    from_gradient.negative_slope = norm->negative_slope;
  }
  from_x.dtype = from_gradient.dtype;
  from_x.shape = shape_;
  from_x.image = x_.const_data_ptr();
  from_x.transformed = x_data.data();

  std::array<Tensor, 2> results;
  cpu::WinogradProductParams product{};
  const Workspace packed(need_x && chunks.count > 1 ? direction.packed_floats() : 0);
  if (need_x) {
    results[0] = new_side(!up_);
    product.dtype = from_gradient.dtype;
    product.shape = shape_;
    product.transformed = gradient_data.data();
    product.weight = weight_view();
    product.out = results[0].mutable_data_ptr();
    if (chunks.count > 1) {
      direction.pack({product.dtype, shape_, weight_view(), packed.data()});
      product.packed = packed.data();
    }
  }

  const int64_t pairs = shape_.small_depths() * shape_.large_depths();
  const bool by_points = chunks.count > 1 || pairs < kFewPairs;
  const Workspace accumulators(need_weight && by_points ? pairs * shape_.points() * cpu::kGradientStride : 0);
  cpu::WinogradGradientParams product_of_both{};
  if (need_weight) {
    results[1] = pooled_like(weight_);
    product_of_both.dtype = from_gradient.dtype;
    product_of_both.shape = shape_;
    product_of_both.small = up_ ? x_data.data() : gradient_data.data();
    product_of_both.large = up_ ? gradient_data.data() : x_data.data();
    product_of_both.accumulators = accumulators.data();
    product_of_both.grad_weight = results[1].mutable_data_ptr();
    product_of_both.channels_last = weight_channels_last_;
  }
  const int64_t work = pairs * shape_.blocks() * shape_.block_tiles() * cpu::kDepth * cpu::kDepth;

  for (int64_t i = 0; i < chunks.count; i++) {
    from_gradient.chunk = from_x.chunk = product.chunk = product_of_both.chunk = chunks[i];
    transform(!up_, from_gradient);
    if (need_x) direction.multiply(product);
    if (!need_weight) continue;
    transform(up_, from_x);
    product_of_both.add = i > 0;
    if (by_points) {
      parallel_by_turns(pairs * shape_.points(), 1, [&] {
        return [&](int64_t begin, int64_t end) { cpu::winograd_gradient_accumulate(product_of_both, begin, end); };
      });
      continue;
    }
    parallel_by_turns(pairs, 1, [&] {
      auto scratch = std::make_shared<Workspace>(shape_.points() * cpu::kGradientStride);
      cpu::WinogradGradientParams mine = product_of_both;
      mine.accumulators = scratch->data();
      return [scratch, mine](int64_t begin, int64_t end) { cpu::winograd_gradient(mine, begin, end); };
    });
  }
  if (need_weight && by_points) {
    parallel(pairs * cpu::kDepth, work, [&](int64_t begin, int64_t end) {
      cpu::winograd_gradient_finish(product_of_both, begin, end);
    });
  }
  if (need_x) results[0] = result_in_format(results[0], channels_last_);
  return results;
}

}  // namespace fastgan::ops
