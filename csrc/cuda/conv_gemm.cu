// conv_gemm: a convolution or transposed convolution as matrix products by phases, for sm_80; conv_gemm.h has the formula.
//
// Shapes and order   x, out channels_last; weight (C, kh, kw, c) as the kernel reads it, c padded to 16 bytes.
// Tiles              conv_gemm_tile.cuh. A block has kM pixels of one phase and kN channels; it walks over the taps and, of
//                    each, the input's channels. Blocks that share pixels (channels first, then phases) run side by side and
//                    read them from L2.
// A                  gathered: a row is one pixel, a tap moves it; pixels outside the image are zero-filled copies.
// B                  Down: rows are channels of the output, K contiguous. Up: rows are K (ldmatrix.trans; words in tf32).
//                    Read in place where the weight is channels_last and c * sizeof(T) divides by 16; else a small kernel first
//                    writes that order into the workspace, once a call.
// Ragged             channels of x that are no multiple of 16 bytes, or x off its alignment: element by element (fill_chunk).
// Epilogue           bias, then: rounded and stored; or that and, of the rounded values, count, mean and squared deviations by
//                    warp, about the warp's own mean (two passes over registers), merged by block and by a second launch; or
//                    normalised and activated from the float sums, rounded once.
// One launch         BatchNorm, where all blocks run at the same time (fits_one_launch): moments, a barrier of the grid,
//                    mean and variance, a second one, then z and out from the sums, which stay on chip. The same bits as
//                    Statistics and bn_act.
// Split K            where there are fewer blocks than multiprocessors: float sums to the workspace, added in order by a
//                    second launch, which does the epilogue; statistics then are bn_stats of what it stored.
// Numerics           16-bit and tf32: products exact, sums in float by the tensor cores; tf32 operands are rounded to nearest.
//                    Else fused multiply-adds of float. The order is fixed by the shape, without atomics: the same input
//                    gives the same bits.
#include "conv_gemm.h"

#include <algorithm>

#include "channel_reduce.cuh"
#include "conv_gemm_tile.cuh"
#include "conv_split.cuh"
#include "cooperative.cuh"
#include "moments.cuh"

namespace fastgan::cuda {
namespace {

// What a launch passes to the kernels.
struct ConvGemmArgs {
  ConvGemmParams p;
  ConvPhases phases;
  const void* weight;       // (C, taps, pitch) of dtype
  int pitch;                // c, rounded up to 16 bytes
  int in_h, in_w, in_channels, out_h, out_w, out_channels;
  int steps_per_tap, splits;
  int column_blocks;        // of kN channels
  bool x_by_chunk, out_by_vector;
  float* partial;           // (splits, elements of out)
  Moments* moments;         // (out_channels, row blocks)
};

__device__ __forceinline__ int samples_of(const ConvGemmArgs& args) { return static_cast<int>(args.p.shape.samples); }

// A row of the block's tile: the pixel of the input that tap (0, 0) would read, which may lie outside, and of the output.
struct Row {
  int y, x;      // within the sample
  int input;     // (n * in_h + y) * in_w + x
  int output;    // pixel of the output, -1 past the phase's end
};

__device__ __forceinline__ Row row_of_pixel(const ConvGemmArgs& args, const ConvPhase& phase, int m) {
  const ConvPhases& all = args.phases;
  const int n = m / (phase.height * phase.width), pixel = m - n * phase.height * phase.width;
  if (n >= samples_of(args)) return {args.in_h + kMaxTaps * 2, 0, 0, -1};  // no tap reaches the image
  const int h = pixel / phase.width, w = pixel - h * phase.width, y = h * all.step_h, x = w * all.step_w;
  const int out_y = h * all.out_step_h + phase.py, out_x = w * all.out_step_w + phase.px;
  return {y, x, (n * args.in_h + y) * args.in_w + x, (n * args.out_h + out_y) * args.out_w + out_x};
}

// Moments of each of the block's columns over its valid rows, to args.moments.
template <class Gemm, class T = typename Gemm::T>
__device__ __forceinline__ void write_moments(const ConvGemmArgs& args, Gemm& gemm, const Row* rows, int column0, int row_block,
                                              int row_blocks, Moments* of_warp) {
  using Warp = typename Gemm::Warp;
  const int first_row = Gemm::warp_row();
  int count = 0;  // valid rows of this warp
#pragma unroll
  for (int row = threadIdx.x % kWarp; row < Gemm::kWarpRows; row += kWarp) {
    count += __popc(__ballot_sync(kFullMask, rows[first_row + row].output >= 0));
  }
  const auto over_rows = [&](auto&& term) {  // of one column: the sum over this warp's rows
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < Warp::kRows; ++i) {
      const float value = term(i);
      if (Warp::row(i) < count) sum += value;
    }
#pragma unroll
    for (int n = 0; n < 3; ++n) sum += __shfl_xor_sync(kFullMask, sum, Warp::row_bit(n));
    return sum;
  };
#pragma unroll
  for (int j = 0; j < Warp::kColumns; ++j) {
    const int column = Gemm::warp_column() + Warp::column(j), c = column0 + column;
    const float bias = args.p.bias && c < args.out_channels ? to_float(static_cast<const T*>(args.p.bias)[c]) : 0.f;
    const auto stored = [&](int i) { return to_float(from_float<T>(gemm.warp.at(i, j) + bias)); };
    const float mean = over_rows(stored) / static_cast<float>(count < 1 ? 1 : count);
    const float m2 = over_rows([&](int i) {
      const float d = stored(i) - mean;
      return d * d;
    });
    if (Warp::row(0) == 0) of_warp[first_row / Gemm::kWarpRows * Gemm::kN + column] = {count, mean, m2};
  }
  __syncthreads();
  for (int column = threadIdx.x; column < Gemm::kN && column0 + column < args.out_channels; column += Gemm::kThreads) {
    const Moments a = of_warp[column], b = of_warp[Gemm::kN + column];
    static_assert(kWarpsM == 2, "two warps a column");
    const MomentsOp::Channel centre = MomentsOp::centre(a);
    const Moments both = a.count + b.count == 0
                             ? Moments{}
                             : MomentsOp::close(merge(MomentsOp::open(a, centre), MomentsOp::open(b, centre)), centre,
                                                a.count + b.count);
    args.moments[static_cast<int64_t>(column0 + column) * row_blocks + row_block] = both;
  }
}

// Of a cooperative launch: mean, var and invstd of every channel, from all blocks' moments. Every warp of the grid has a share of
// the channels: each block for itself would read rows of blocks x its channels, in one warp after the other, which takes
// longer than to wait for all blocks once more.
template <int kThreads>
__device__ __forceinline__ void combine_moments(const ConvGemmArgs& args) {
  const ConvGemmParams& p = args.p;
  const int row_blocks = gridDim.x / args.column_blocks, warps = kThreads / kWarp;
  const int64_t count = static_cast<int64_t>(samples_of(args)) * args.out_h * args.out_w;
  grid_sync();
  for (int c = blockIdx.x * warps + threadIdx.x / kWarp; c < args.out_channels; c += gridDim.x * warps) {
    combine_channel<2>(MomentsOp{p.mean, p.var, p.invstd, p.eps}, args.moments, row_blocks, c, count);
  }
  grid_sync();
}

// Grid (column blocks * phases * blocks of pixels of the largest phase, splits).
template <class Gemm, ConvDirection kDirection>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksAnSm) conv_gemm_kernel(const ConvGemmArgs args) {
  using T = typename Gemm::T;
  using TileA = typename Gemm::TileA;
  using TileB = typename Gemm::TileB;
  constexpr int V = kVector<T>;
  FASTGAN_DYNAMIC_SHARED(ring);
  FASTGAN_SHARED(Row, rows, Gemm::kM);
  FASTGAN_SHARED(Moments, of_warp, kWarpsM* Gemm::kN);

  const int row_block = blockIdx.x / args.column_blocks, column0 = blockIdx.x % args.column_blocks * Gemm::kN;
  const ConvPhase phase = args.phases.phase[row_block % args.phases.phases];
  const int row0 = row_block / args.phases.phases * Gemm::kM;
  for (int i = threadIdx.x; i < Gemm::kM; i += Gemm::kThreads) rows[i] = row_of_pixel(args, phase, row0 + i);
  __syncthreads();

  // This thread's copies of a step: chunk chunk_a of rows row_a, row_a + kThreads / 4, ..., and the same of B.
  const int row_a = threadIdx.x / TileA::kRowChunks, chunk_a = threadIdx.x % TileA::kRowChunks;
  const int row_b = threadIdx.x / TileB::kRowChunks, chunk_b = threadIdx.x % TileB::kRowChunks;
  constexpr int kRowsApartA = Gemm::kThreads / TileA::kRowChunks, kRowsApartB = Gemm::kThreads / TileB::kRowChunks;
  Row held[Gemm::kCopiesA];
#pragma unroll
  for (int i = 0; i < Gemm::kCopiesA; ++i) held[i] = rows[row_a + i * kRowsApartA];

  const StepRange range(phase.taps * args.steps_per_tap, args.splits, blockIdx.y);
  int tap_index = phase.first_tap + range.first / args.steps_per_tap, channel0 = range.first % args.steps_per_tap * kStep<T>;
  const auto fill = [&](unsigned char* a, unsigned char* b) {
    const ConvTap tap = args.phases.tap[tap_index];
    const int shift = tap.dh * args.in_w + tap.dw, channel = channel0 + chunk_a * V;
#pragma unroll
    for (int i = 0; i < Gemm::kCopiesA; ++i) {
      const Row mine = Gemm::Warp::kRegistersToSpare ? held[i] : rows[row_a + i * kRowsApartA];
      const bool inside = static_cast<unsigned>(mine.y + tap.dh) < static_cast<unsigned>(args.in_h) &&
                          static_cast<unsigned>(mine.x + tap.dw) < static_cast<unsigned>(args.in_w);
      const int valid = inside ? args.in_channels - channel : 0;
      const int offset = valid > 0 ? (mine.input + shift) * args.in_channels + channel : 0;
      fill_chunk(a + TileA::offset(row_a + i * kRowsApartA, chunk_a), static_cast<const T*>(args.p.x) + offset, valid,
                 args.x_by_chunk);
    }
    const int taps = args.p.shape.kernel_h * args.p.shape.kernel_w;
#pragma unroll
    for (int i = 0; i < Gemm::kCopiesB; ++i) {
      const int row = row_b + i * kRowsApartB;
      const int coarse = (kDirection == ConvDirection::Up ? channel0 : column0) + row;
      const int fine = (kDirection == ConvDirection::Up ? column0 : channel0) + chunk_b * V;
      const bool inside = coarse < args.p.shape.coarse_channels && fine < args.pitch;
      const int64_t offset = inside ? (static_cast<int64_t>(coarse) * taps + tap.t) * args.pitch + fine : 0;
      fill_chunk(b + TileB::offset(row, chunk_b), static_cast<const T*>(args.weight) + offset, inside ? V : 0, true);
    }
    channel0 += kStep<T>;
    if (channel0 >= args.in_channels) {
      channel0 = 0;
      ++tap_index;
    }
  };

  Gemm gemm;
  gemm.shared = ring;
  gemm.run(range.count, fill);

  if (args.splits > 1) {
    const int column = column0 + Gemm::template column_of<4>();
    float* partial = args.partial + blockIdx.y * static_cast<int64_t>(samples_of(args)) * args.out_h * args.out_w * args.out_channels;
    gemm.template for_each_vector<4>([&](int row, const float(&sums)[4]) {
      const int pixel = rows[row].output;
      if (pixel < 0) return;
      const int64_t offset = static_cast<int64_t>(pixel) * args.out_channels + column;
      store_first(partial + offset, sums, args.out_channels - column, args.out_channels % 4 == 0);
    });
    return;
  }
  const bool batch_norm = args.p.epilogue == ConvEpilogue::BatchNorm;
  if (args.p.epilogue == ConvEpilogue::Statistics || batch_norm) {
    write_moments(args, gemm, rows, column0, row_block, gridDim.x / args.column_blocks, of_warp);
  }
  if (batch_norm) combine_moments<Gemm::kThreads>(args);
  const int column = column0 + Gemm::template column_of<V < 4 ? 4 : V>();
  constexpr int W = V < 4 ? 4 : V;
  float bias[W];
  ChannelAffine affine[W];
  load_bias<T>(args.p, args.out_channels, column, bias);
  load_affine(args.p, args.out_channels, column, affine);
  gemm.template for_each_vector<W>([&](int row, float(&sums)[W]) {
    const int pixel = rows[row].output;
    if (pixel < 0) return;
    const int64_t offset = static_cast<int64_t>(pixel) * args.out_channels + column;
    add_bias(bias, sums);
    if (batch_norm) {
#pragma unroll
      for (int w = 0; w < W; ++w) sums[w] = to_float(from_float<T>(sums[w]));
      if (args.p.z) store_first(static_cast<T*>(args.p.z) + offset, sums, args.out_channels - column, args.out_by_vector);
    }
    finish(args.p, affine, sums);
    store_first(static_cast<T*>(args.p.out) + offset, sums, args.out_channels - column, args.out_by_vector);
  });
}

// weight in its own order -> (coarse_channels, taps, pitch). One thread a pair of channels.
template <class T>
__global__ void __launch_bounds__(kPassThreads) pack_weight(const ConvGemmArgs args, T* packed) {
  const ConvShape& s = args.p.shape;
  const int taps = s.kernel_h * s.kernel_w, fine_channels = static_cast<int>(s.fine_channels);
  const int64_t i = blockIdx.x * static_cast<int64_t>(kPassThreads) + threadIdx.x;
  const int64_t coarse = i / args.pitch, fine = i % args.pitch;
  if (coarse >= s.coarse_channels) return;
  const T* weight = static_cast<const T*>(args.p.weight);
  for (int t = 0; t < taps; ++t) {
    const int64_t from = args.p.weight_layout == Layout::ChannelsLast ? (coarse * taps + t) * fine_channels + fine
                                                                       : (coarse * fine_channels + fine) * taps + t;
    packed[(coarse * taps + t) * args.pitch + fine] = fine < fine_channels ? weight[from] : from_float<T>(0.f);
  }
}

// How a call is cut into blocks, and what lies in its workspace: [packed weight] [of conv_split.cuh | moments].
struct ConvGemmPlan {
  int tile_m, tile_n;
  unsigned row_blocks, blocks;  // blocks of pixels, all phases; of these times blocks of channels
  bool pack;
  int64_t elements;             // of out
  int64_t after_weight, bytes;
  ConvGemmArgs args;            // complete but for the pointers into the workspace
};

void choose_tile(ConvGemmPlan& plan, int64_t pixels) {
  const ConvGemmArgs& a = plan.args;
  const auto blocks = [&](int m, int n) {
    return ceil_div(pixels, m) * a.phases.phases * ceil_div(a.out_channels, n);
  };
  plan.tile_n = a.out_channels > 64 && blocks(128, 128) >= FASTGAN_CONV_BLOCKS ? 128 : 64;
  plan.tile_m = blocks(128, plan.tile_n) >= FASTGAN_CONV_BLOCKS ? 128 : 64;
  plan.row_blocks = static_cast<unsigned>(ceil_div(pixels, plan.tile_m) * a.phases.phases);
  plan.blocks = static_cast<unsigned>(blocks(plan.tile_m, plan.tile_n));
}

ConvGemmPlan plan_conv_gemm(const ConvGemmParams& p) {
  ConvGemmPlan plan{};
  ConvGemmArgs& a = plan.args;
  const ConvShape& s = p.shape;
  const bool up = p.direction == ConvDirection::Up;
  const int64_t element = p.dtype == DType::Float32 ? 4 : 2, chunk = kChunkBytes / element;
  a.p = p;
  if (p.epilogue == ConvEpilogue::BatchNorm) a.p.channels.mean = p.mean, a.p.channels.invstd = p.invstd;
  a.phases = conv_phases(s, p.direction);
  a.in_h = static_cast<int>(up ? s.coarse_h : s.fine_h);
  a.in_w = static_cast<int>(up ? s.coarse_w : s.fine_w);
  a.in_channels = static_cast<int>(up ? s.coarse_channels : s.fine_channels);
  a.out_h = static_cast<int>(up ? s.fine_h : s.coarse_h);
  a.out_w = static_cast<int>(up ? s.fine_w : s.coarse_w);
  a.out_channels = static_cast<int>(up ? s.fine_channels : s.coarse_channels);
  a.pitch = static_cast<int>(rounded_up(s.fine_channels, chunk));
  a.x_by_chunk = a.in_channels % chunk == 0 && aligned16(p.x);
  a.out_by_vector = a.out_channels % chunk == 0 && aligned16(p.out) && aligned16(p.z);
  a.steps_per_tap = static_cast<int>(ceil_div(a.in_channels * element, kStepBytes));
  const ConvPhase& first = a.phases.phase[0];  // has the most pixels
  int most_taps = 0;
  for (int i = 0; i < a.phases.phases; ++i) most_taps = std::max<int>(most_taps, a.phases.phase[i].taps);
  choose_tile(plan, s.samples * first.height * first.width);
  a.column_blocks = static_cast<int>(ceil_div(a.out_channels, plan.tile_n));
  a.splits = splits_of(plan.blocks, int64_t{most_taps} * a.steps_per_tap);
  a.weight = p.weight;

  plan.pack = p.weight_layout != Layout::ChannelsLast || a.pitch != s.fine_channels || !aligned16(p.weight);
  plan.elements = s.samples * a.out_h * a.out_w * a.out_channels;
  plan.after_weight = plan.pack ? s.coarse_channels * s.kernel_h * s.kernel_w * a.pitch * element : 0;
  plan.bytes = plan.after_weight;
  if (a.splits > 1) {
    plan.bytes += split_workspace(p, a.splits);
  } else if (p.epilogue == ConvEpilogue::Statistics || p.epilogue == ConvEpilogue::BatchNorm) {
    plan.bytes += int64_t{a.out_channels} * plan.row_blocks * static_cast<int64_t>(sizeof(Moments));
  }
  return plan;
}

// Calls body(BlockGemm, kernel) with those of a plan.
template <class Math, int kM, int kN, class Body>
cudaError_t with_kernel_of_tile(const ConvGemmPlan& plan, Body&& body) {
  if (plan.args.p.direction == ConvDirection::Up) {
    using Gemm = BlockGemm<Math, KOrder::KContiguous, KOrder::KStrided, kM, kN>;
    return body(Gemm{}, conv_gemm_kernel<Gemm, ConvDirection::Up>);
  }
  using Gemm = BlockGemm<Math, KOrder::KContiguous, KOrder::KContiguous, kM, kN>;
  return body(Gemm{}, conv_gemm_kernel<Gemm, ConvDirection::Down>);
}

template <class Math, class Body>
cudaError_t with_kernel(const ConvGemmPlan& plan, Body&& body) {
  if (plan.tile_n == 128) return with_kernel_of_tile<Math, 128, 128>(plan, body);
  return plan.tile_m == 128 ? with_kernel_of_tile<Math, 128, 64>(plan, body) : with_kernel_of_tile<Math, 64, 64>(plan, body);
}

// BatchNorm: do all blocks run at the same time?
bool fits_one_launch(const ConvGemmPlan& plan) {
  const ConvGemmParams& p = plan.args.p;
  if (plan.args.splits > 1) return false;
  int64_t resident = 0;
  with_math(p.dtype, p.tf32, [&](auto math) {
    return with_kernel<decltype(math)>(plan, [&](auto gemm, auto kernel) {
      using Gemm = decltype(gemm);
      resident = resident_blocks(kernel, Gemm::kThreads, Gemm::kSharedBytes);
      return cudaSuccess;
    });
  });
  return plan.blocks <= resident;
}

template <class Math>
cudaError_t run_conv_gemm(ConvGemmPlan& plan, cudaStream_t stream) {
  using T = typename Math::T;
  ConvGemmArgs& args = plan.args;
  const ConvGemmParams& p = args.p;
  auto* workspace = static_cast<unsigned char*>(p.workspace);
  args.partial = reinterpret_cast<float*>(workspace + plan.after_weight);
  args.moments = reinterpret_cast<Moments*>(workspace + plan.after_weight);
  if (plan.pack) {
    args.weight = workspace;
    FASTGAN_RETURN_IF_ERROR(launch(pack_weight<T>, dim3(blocks_of_threads(p.shape.coarse_channels * args.pitch)),
                                   dim3(kPassThreads), stream, args, reinterpret_cast<T*>(workspace)));
  }
  FASTGAN_RETURN_IF_ERROR(with_kernel<Math>(plan, [&](auto gemm, auto kernel) {
    using Gemm = decltype(gemm);
    const dim3 grid(plan.blocks, static_cast<unsigned>(args.splits)), block(Gemm::kThreads);
    return p.epilogue == ConvEpilogue::BatchNorm ? launch_cooperative(kernel, grid, block, Gemm::kSharedBytes, stream, args)
                                                 : launch_with_shared(kernel, grid, block, Gemm::kSharedBytes, stream, args);
  }));
  if (args.splits > 1) return finish_splits<T>(p, args.partial, args.splits, stream);
  if (p.epilogue != ConvEpilogue::Statistics) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(ceil_div(args.out_channels, kChannelThreads / kWarp)));
  return launch(combine<MomentsOp>, grid, dim3(kChannelThreads), stream, MomentsOp{p.mean, p.var, p.invstd, p.eps},
                static_cast<const Moments*>(args.moments), static_cast<int>(plan.row_blocks), args.out_channels,
                plan.elements / args.out_channels);
}

}  // namespace

bool conv_gemm_covers(const ConvGemmParams& p) {
  return p.shape.fits() && (p.epilogue != ConvEpilogue::BatchNorm || fits_one_launch(plan_conv_gemm(p)));
}

int64_t conv_gemm_workspace(const ConvGemmParams& p) { return plan_conv_gemm(p).bytes; }

cudaError_t conv_gemm(const ConvGemmParams& p, cudaStream_t stream) {
  ConvGemmPlan plan = plan_conv_gemm(p);
  return with_math(p.dtype, p.tf32, [&](auto math) { return run_conv_gemm<decltype(math)>(plan, stream); });
}

}  // namespace fastgan::cuda
