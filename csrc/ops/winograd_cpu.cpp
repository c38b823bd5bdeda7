// Transforms and products of cpu/winograd.h on torch's threads, chunk by chunk of the batch.
#include "ops/winograd_cpu.h"

#include <algorithm>
#include <optional>

#include "ops/layout_cpu.h"
#include "ops/pooled_tensor.h"
#include "ops/stages.h"
#include "ops/tensor_cpu.h"
#include "ops/workspace.h"

namespace fastgan::ops {
namespace {

using cpu::WinogradChunk;
using cpu::WinogradShape;

constexpr int64_t kChunkFloats = int64_t(2) << 20;  // transformed data held at one time: it is read from the cache again
constexpr int64_t kMostChunkFloats = 4 * kChunkFloats;
constexpr int64_t kTurnElements = 65536;  // of an image: what a thread transforms in one turn
constexpr int64_t kFinishedRows = 16;     // of accumulators, in one turn
constexpr int64_t kFewPairs = 8;          // gradient units below which points become units too

// Whether a thread does all of a block, from transform to result: what it transforms stays with its core, worth a tenth of the
// time. Blocks that do not divide among the threads are shared, column by column.
bool divides_among_threads(int64_t blocks) {
  const int64_t threads = torch::stable::get_num_threads(), rounds = cpu::ceil_div(blocks, threads);
  return threads > 1 && rounds * threads - blocks <= blocks / 8;
}

// Cuts the blocks into chunks, of which all held at one time have about kChunkFloats of transformed data, or more: so much that
// every thread finds a unit, and that packed weights, which are read once a chunk, are no more than the data.
struct Chunks {
  int64_t blocks, count, length;  // length: blocks of one chunk
  int64_t slots;                  // chunks whose data is held at one time: one that some threads still work on, and the next
  bool by_block;                  // a thread does all of a block
  bool in_scratch;                // and keeps its data to itself
  bool pack_ahead;                // where packed weights serve several units; otherwise a unit packs them into its cache

  // `packed_floats`: of the product's weights, 0 where there is no product. `columns`: units of the product that a block gives.
  // `summed`: data goes on into the gradient of the weight, which sums over all blocks.
  Chunks(const WinogradShape& shape, int64_t floats_per_block, int64_t packed_floats, int64_t columns, bool summed)
      : blocks(shape.blocks()),
        by_block(packed_floats > 0 && divides_among_threads(blocks)),
        in_scratch(by_block && !summed) {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t for_threads = cpu::ceil_div(threads, columns) * floats_per_block;
    slots = threads > 1 ? 2 : 1;
    const int64_t floats = std::max({kChunkFloats, packed_floats, std::min(for_threads, kMostChunkFloats)}) / slots;
    length = in_scratch ? blocks : by_block ? threads : cpu::at_least(floats / floats_per_block, 1);
    length = cpu::ceil_div(blocks, cpu::ceil_div(blocks, length));
    count = cpu::ceil_div(blocks, length);
    slots = cpu::at_most(slots, count);
    pack_ahead = count > 1 || (blocks > 1 && threads > 1);
  }
  WinogradChunk operator[](int64_t i) const { return {i * length, cpu::at_most(length, blocks - i * length)}; }
};

// Transformed data of the chunks in work; null, where it is in scratch.
struct Slots {
  int64_t count, floats;
  Workspace data;

  Slots(const Chunks& chunks, int64_t floats_per_block)
      : count(chunks.slots), floats(chunks.in_scratch ? 0 : chunks.length * floats_per_block), data(count * floats) {}
  float* operator[](int64_t i) const { return floats > 0 ? data.data() + i % count * floats : nullptr; }
};

// The stages of something that is done chunk by chunk; none, where it is not done.
struct ChunkStages {
  const Chunks& chunks;
  std::vector<int> stages;

  explicit ChunkStages(const Chunks& chunks_) : chunks(chunks_), stages(chunks.count, -1) {}
  int& operator[](int64_t i) { return stages[i]; }
  // The one whose slot chunk i takes over.
  int before(int64_t i) const { return i < chunks.slots ? -1 : stages[i - chunks.slots]; }
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
  Direction reversed() const { return {!up, shape}; }
  int64_t packed_floats() const { return columns() * depths() * shape.packed_block(lanes); }

  int add_packing(Stages& stages, const cpu::WinogradPackParams& params) const {
    return stages.add(columns() * depths(), 1, 0, {}, [up = up, params](int64_t begin, int64_t end, float*) {
      up ? cpu::winograd_pack_up(params, begin, end) : cpu::winograd_pack_down(params, begin, end);
    });
  }
  void multiply(const cpu::WinogradProductParams& params, int64_t begin, int64_t end) const {
    up ? cpu::winograd_up(params, begin, end) : cpu::winograd_down(params, begin, end);
  }
  int add_product(Stages& stages, const cpu::WinogradProductParams& params, std::vector<int> after) const {
    const int64_t scratch_floats = shape.product(lanes) + (params.packed ? 0 : depths() * shape.packed_block(lanes));
    // A column's blocks stay together where its weights are packed on the way.
    const int64_t step = params.packed ? 1 : params.chunk.blocks;
    return stages.add(columns() * params.chunk.blocks, step, scratch_floats, std::move(after),
                      [*this, params](int64_t begin, int64_t end, float* scratch) {
                        cpu::WinogradProductParams mine = params;
                        mine.scratch = scratch;
                        multiply(mine, begin, end);
                      });
  }
};

void transform(bool small, const cpu::WinogradTransformParams& params, int64_t begin, int64_t end) {
  small ? cpu::winograd_transform_small(params, begin, end) : cpu::winograd_transform_large(params, begin, end);
}

int add_transform(Stages& stages, bool small, const cpu::WinogradTransformParams& params, std::vector<int> after) {
  const WinogradShape& s = params.shape;
  const int64_t elements = 16 * (small ? s.small_channels : s.phases() * s.large_channels);  // of a tile
  return stages.add(tiles_of(s, params.chunk), cpu::ceil_div(kTurnElements, elements), 0, std::move(after),
                    [small, params](int64_t begin, int64_t end, float*) { transform(small, params, begin, end); });
}

// Units: the blocks of a chunk. `source` is transformed, into the thread's scratch where it names no place, and multiplied;
// `other` is transformed, where there is such.
int add_blocks(Stages& stages, const Direction& direction, const cpu::WinogradTransformParams& source,
               const cpu::WinogradProductParams& product, const cpu::WinogradTransformParams* other, std::vector<int> after) {
  const WinogradShape& s = direction.shape;
  const int64_t kept = source.transformed ? 0 : direction.source_block();
  const auto of_block = [](auto params, float* transformed, int64_t block) {
    params.transformed = transformed;
    params.chunk = {params.chunk.first_block + block, 1};
    return params;
  };
  return stages.add(
      source.chunk.blocks, 1, kept + s.product(direction.lanes), std::move(after),
      [=, transformed = other ? std::optional(*other) : std::nullopt](int64_t begin, int64_t end, float* scratch) {
        for (int64_t block = begin; block < end; block++) {
          float* data = source.transformed ? source.transformed + block * direction.source_block() : scratch;
          const cpu::WinogradTransformParams from = of_block(source, data, block);
          const int64_t tiles = tiles_of(s, from.chunk);
          transform(direction.up, from, 0, tiles);
          cpu::WinogradProductParams mine = of_block(product, data, block);
          mine.scratch = scratch + kept;
          direction.multiply(mine, 0, direction.columns());
          if (transformed) {
            float* to = transformed->transformed + block * direction.reversed().source_block();
            transform(!direction.up, of_block(*transformed, to, block), 0, tiles);
          }
        }
      });
}

int add_gradient(Stages& stages, const cpu::WinogradGradientParams& params, bool by_points, std::vector<int> after) {
  const WinogradShape& s = params.shape;
  const int64_t pairs = s.small_depths() * s.large_depths();
  if (by_points) {
    return stages.add(pairs * s.points(), 1, 0, std::move(after), [params](int64_t begin, int64_t end, float*) {
      cpu::winograd_gradient_accumulate(params, begin, end);
    });
  }
  return stages.add(pairs, 1, s.points() * cpu::kGradientStride, std::move(after),
                    [params](int64_t begin, int64_t end, float* scratch) {
                      cpu::WinogradGradientParams mine = params;
                      mine.accumulators = scratch;
                      cpu::winograd_gradient(mine, begin, end);
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
      weight_(weight.is_contiguous() || is_channels_last(weight) ? weight : dense(weight)),
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
  const Chunks chunks(shape_, direction.source_block(), direction.packed_floats(), direction.columns(), false);
  Tensor out = new_side(up_);
  const Tensor dense_bias = bias.has_value() ? dense(*bias) : x_;

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

  const Slots slots(chunks, direction.source_block());
  const Workspace packed(chunks.pack_ahead ? direction.packed_floats() : 0);
  Stages stages;
  int packing = -1;
  if (chunks.pack_ahead) {
    packing = direction.add_packing(stages, {source.dtype, shape_, weight_view(), packed.data()});
    product.packed = packed.data();
  }
  ChunkStages products(chunks);
  for (int64_t i = 0; i < chunks.count; i++) {
    source.chunk = product.chunk = chunks[i];
    source.transformed = slots[i];
    product.transformed = slots[i];
    if (chunks.by_block) {
      add_blocks(stages, direction, source, product, nullptr, {packing});
    } else {
      const int transformed = add_transform(stages, up_, source, {products.before(i)});
      products[i] = direction.add_product(stages, product, {packing, transformed});
    }
  }
  stages.run();
  return result_in_format(out, channels_last_);
}

std::array<Tensor, 2> Winograd::backward(const Tensor& grad_of, const OptionalTensor& z_of, const Normalization* norm,
                                         bool need_x, bool need_weight) const {
  const Tensor grad = in_format_cpu(grad_of, true), z = z_of.has_value() ? in_format_cpu(*z_of, true) : grad;
  const Direction direction{!up_, shape_};  // of the gradient of x: the gradient is transformed as its source
  const int64_t per_block = direction.source_block() + (need_weight ? Direction{up_, shape_}.source_block() : 0);
  const Chunks chunks(shape_, per_block, need_x ? direction.packed_floats() : 0, direction.columns(), need_weight);
  const Slots gradient_slots(chunks, direction.source_block());
  const Slots x_slots(chunks, per_block - direction.source_block());
  Stages stages;

  cpu::WinogradTransformParams from_gradient{}, from_x{};
  from_gradient.dtype = cpu::DType::Float32;
  from_gradient.shape = shape_;
  from_gradient.image = grad.const_data_ptr();
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

  std::array<Tensor, 2> results;
  cpu::WinogradProductParams product{};
  const bool ahead = need_x && chunks.pack_ahead;
  const Workspace packed(ahead ? direction.packed_floats() : 0);
  int packing = -1;
  if (need_x) {
    results[0] = new_side(!up_);
    product.dtype = from_gradient.dtype;
    product.shape = shape_;
    product.weight = weight_view();
    product.out = results[0].mutable_data_ptr();
    if (ahead) {
      packing = direction.add_packing(stages, {product.dtype, shape_, weight_view(), packed.data()});
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
    product_of_both.accumulators = accumulators.data();
    product_of_both.grad_weight = results[1].mutable_data_ptr();
    product_of_both.channels_last = weight_channels_last_;
  }

  ChunkStages gradients(chunks), xs(chunks), products(chunks), sums(chunks);
  const auto add_sums = [&](int64_t i) {
    product_of_both.chunk = chunks[i];
    product_of_both.small = up_ ? x_slots[i] : gradient_slots[i];
    product_of_both.large = up_ ? gradient_slots[i] : x_slots[i];
    product_of_both.add = i > 0;
    sums[i] = add_gradient(stages, product_of_both, by_points, {gradients[i], xs[i], i > 0 ? sums[i - 1] : -1});
  };
  // Of blocks, sums come a chunk behind: a thread that is done with its block finds the next one, and need not wait for the
  // other threads' blocks. Otherwise at once, while the data is in the cache.
  const int64_t behind = chunks.by_block ? chunks.slots - 1 : 0;
  for (int64_t i = 0; i < chunks.count; i++) {
    from_gradient.chunk = from_x.chunk = product.chunk = chunks[i];
    from_gradient.transformed = gradient_slots[i];
    product.transformed = gradient_slots[i];
    from_x.transformed = x_slots[i];
    if (chunks.by_block) {
      gradients[i] = xs[i] = add_blocks(stages, direction, from_gradient, product, need_weight ? &from_x : nullptr,
                                        {packing, sums.before(i)});
    } else {
      gradients[i] = add_transform(stages, !up_, from_gradient, {products.before(i), sums.before(i)});
      if (need_x) products[i] = direction.add_product(stages, product, {packing, gradients[i]});
      if (need_weight) xs[i] = add_transform(stages, up_, from_x, {sums.before(i)});
    }
    if (need_weight && i >= behind) add_sums(i - behind);
  }
  if (need_weight && behind > 0) add_sums(chunks.count - 1);
  if (need_weight && by_points) {
    stages.add(pairs * cpu::kDepth, kFinishedRows, 0, {sums[chunks.count - 1]}, [&](int64_t begin, int64_t end, float*) {
      cpu::winograd_gradient_finish(product_of_both, begin, end);
    });
  }
  stages.run();
  if (need_x) results[0] = result_in_format(results[0], channels_last_);
  return results;
}

}  // namespace fastgan::ops
