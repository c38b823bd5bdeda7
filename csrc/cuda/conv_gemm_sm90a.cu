// conv_gemm_sm90a: a convolution or transposed convolution as matrix products by phases, on wgmma; conv_gemm.h has the
// formula, ptx_sm90a.cuh the layouts.
//
// Shapes and order   x, out channels_last; weight (C, kh, kw, c). Read through tensor maps as they are, nothing is
//                    packed: A = kM pixels x 64 input channels, K-major, a box (64, w, h, n) of x, shifted by the tap
//                    and with the stride as traversal stride; the padding, and channels past the last, arrive as zeros.
//                    B = 64 input channels x kN output channels: of Up the output channels are contiguous (MN-major),
//                    of Down the input channels (K-major).
// Tiles              wgmma_gemm_sm90a.cuh: kM = 128 or 256 pixels, a box tile_w x tile_h x tile_n of one phase, by kN =
//                    64 or 128 output channels; channel blocks of the same pixels come after each other, then the
//                    phases, which read the same pixels, then the splits of K. 256 x 128 where no multiprocessor gets
//                    more to do by it.
// Work               persistent blocks take tiles in turn.
// Split K            where there are fewer tiles than multiprocessors: conv_split.cuh adds the float sums up in order.
// Registers          kM kN / 256 sums a thread.
// Shared memory      the ring; bias and normalisation of the tile's columns, and moments by warp.
// Epilogue           in registers: z = sum + bias, of Normalise normalised and activated; rounded once; then groups of
//                    4 lanes exchange what they hold so that each stores 16 bytes. Statistics are those of z as stored:
//                    mean and squared deviations of a warp's pixels, of the 8 warps merged in order, then of the tiles
//                    by `combine`: nothing depends on how many blocks run.
// One launch         BatchNorm, where every tile has a block of its own and all run at the same time: moments, a
//                    barrier of the grid, mean and variance, a second one, then out from z, which has stayed in
//                    registers. The same bits as Statistics and bn_act.
// Assumptions        conv_gemm_sm90a_covers().
// Numerics           sums in float by the tensor cores, in the order of taps and channels.
#include "conv_gemm_sm90a.h"

#include <algorithm>

#include "channel_reduce.cuh"
#include "conv_split.cuh"
#include "cooperative.cuh"
#include "moments.cuh"
#include "pixel_box_sm90a.cuh"
#include "wgmma_gemm_sm90a.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kEpilogueBarrier = 1;

template <class T, ConvDirection kConvDirection, int kM, int kN>
struct ConvGemmSm90a : WgmmaGemm<T, Major::K, kConvDirection == ConvDirection::Up ? Major::MN : Major::K, kM, kN> {
  static constexpr ConvDirection kDirection = kConvDirection;
};

struct ConvSm90aArgs {
  CUtensorMap x, weight;
  ConvGemmParams p;
  ConvPhases phases;
  PixelBox box;                         // of the largest phase
  int column_blocks, row_blocks, splits, steps_per_tap;
  int samples, out_h, out_w, out_channels;
  float* partial;                       // (splits, elements of out)
  Moments* moments;                     // (out_channels, row_blocks)

  __host__ __device__ int tiles() const { return column_blocks * row_blocks * splits; }
};

// Tile number `number` of the launch.
struct ConvTile {
  int column_block, row_block, split;
  ConvPhase phase;
  PixelBox::Corner corner;
  StepRange steps;

  __device__ __forceinline__ ConvTile(const ConvSm90aArgs& args, int number)
      : column_block(number % args.column_blocks),
        row_block(number / args.column_blocks % args.row_blocks),
        split(number / args.column_blocks / args.row_blocks),
        phase(args.phases.phase[row_block % args.phases.phases]),
        corner(args.box.corner(row_block / args.phases.phases)),
        steps(phase.taps * args.steps_per_tap, args.splits, split) {}
};

template <class Gemm>
__device__ __forceinline__ void copy_tile(const ConvSm90aArgs& args, const ConvTile& tile, typename Gemm::Ring& ring) {
  using B = typename Gemm::B;
  const int w = tile.corner.w * args.phases.step_w, h = tile.corner.h * args.phases.step_h;
  const int column0 = tile.column_block * Gemm::kN;
  int t = tile.phase.first_tap + tile.steps.first / args.steps_per_tap, of_tap = tile.steps.first % args.steps_per_tap;
  for (int step = 0; step < tile.steps.count; ++step) {
    const ConvTap tap = args.phases.tap[t];
    const int channel0 = of_tap * Gemm::kDepth;
    ring.fill([&](unsigned char* a, unsigned char* b, uint64_t* landed) {
      tensor_copy(a, &args.x, landed, channel0, w + tap.dw, h + tap.dh, tile.corner.n);
      if constexpr (Gemm::kDirection == ConvDirection::Down) {
        tensor_copy(b, &args.weight, landed, channel0, tap.t, column0);
      } else {
#pragma unroll
        for (int i = 0; i < B::kBoxes; ++i) {
          tensor_copy(b + i * B::kBoxBytes, &args.weight, landed, column0 + i * B::kBoxWidth, tap.t, channel0);
        }
      }
    });
    if (++of_tap == args.steps_per_tap) {
      of_tap = 0;
      ++t;
    }
  }
}

// Where a thread's sums belong: row (f, half) is pixel[f][half] of the output, -1 past the phase's end.
template <class Gemm>
struct TilePixels {
  int pixel[Gemm::kFragments][2];

  __device__ __forceinline__ TilePixels(const ConvSm90aArgs& args, const ConvTile& tile) {
#pragma unroll
    for (int f = 0; f < Gemm::kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const PixelBox::Corner at = args.box.pixel(tile.corner, Gemm::row_of(f, half));
        const bool inside = at.w < tile.phase.width && at.h < tile.phase.height && at.n < args.samples;
        const int y = at.h * args.phases.out_step_h + tile.phase.py, x = at.w * args.phases.out_step_w + tile.phase.px;
        pixel[f][half] = inside ? (at.n * args.out_h + y) * args.out_w + x : -1;
      }
    }
  }
};

// What is known of each of a tile's columns, in shared memory; load(first, &of_column) finds it.
template <class Gemm, class OfColumn, class Load>
__device__ __forceinline__ void share_columns(const ConvTile& tile, OfColumn* of_column, Load&& load) {
  named_barrier(kEpilogueBarrier, Gemm::kConsumers);  // those of the last tile are no longer read
  const int column = threadIdx.x;
  if (column < Gemm::kN) {
    OfColumn mine[1];
    load(tile.column_block * Gemm::kN + column, mine);
    of_column[column] = mine[0];
  }
  named_barrier(kEpilogueBarrier, Gemm::kConsumers);
}

// Sums <- z: the bias, and rounded, unless that happens once, behind a normalisation.
template <class Gemm>
__device__ __forceinline__ void make_z(const ConvSm90aArgs& args, const ConvTile& tile, typename Gemm::Sums& d,
                                       float* bias) {
  using T = typename Gemm::T;
  const bool biased = args.p.bias != nullptr, rounded = args.p.epilogue != ConvEpilogue::Normalise;
  if (biased) {
    share_columns<Gemm>(tile, bias, [&](int first, float(&mine)[1]) {
      load_bias<T>(args.p, args.out_channels, first, mine);
    });
  }
  Gemm::update_pairs(d, [&](int j, float(&z)[2]) {
    float of_pair[2] = {};
    if (biased) of_pair[0] = bias[Gemm::column_of(j)], of_pair[1] = bias[Gemm::column_of(j) + 1];
    add_bias(of_pair, z);
    if (rounded) z[0] = to_float(from_float<T>(z[0])), z[1] = to_float(from_float<T>(z[1]));
  });
}

// z <- out.
template <class Gemm>
__device__ __forceinline__ void make_out(const ConvSm90aArgs& args, const ConvTile& tile, typename Gemm::Sums& d,
                                         ChannelAffine* affine) {
  share_columns<Gemm>(tile, affine, [&](int first, ChannelAffine(&mine)[1]) {
    load_affine(args.p, args.out_channels, first, mine);
  });
  Gemm::update_pairs(d, [&](int j, float(&z)[2]) {
    const ChannelAffine of_pair[2] = {affine[Gemm::column_of(j)], affine[Gemm::column_of(j) + 1]};
    finish<false>(args.p, of_pair, z);
  });
}

// Over the 8 lanes that hold the same columns.
__device__ __forceinline__ float sum_of_rows(float x) {
#pragma unroll
  for (int distance = 4; distance < kWarp; distance *= 2) x += __shfl_xor_sync(kFullMask, x, distance);
  return x;
}

// Moments of every column over the warp's pixels, merged over the warps; d holds z as stored.
template <class Gemm>
__device__ __forceinline__ void write_moments(const ConvSm90aArgs& args, const ConvTile& tile,
                                              const typename Gemm::Sums& d, const TilePixels<Gemm>& pixels,
                                              Moments* of_warp) {
  constexpr int kN = Gemm::kN;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const auto over_rows = [&](auto&& term) {  // of one column: term(f, half), over this warp's pixels
    float sum = 0.f;
#pragma unroll
    for (int f = 0; f < Gemm::kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (pixels.pixel[f][half] >= 0) sum += term(f, half);
      }
    }
    return sum_of_rows(sum);
  };
  const float count = over_rows([](int, int) { return 1.f; }), scale = count > 0.f ? 1.f / count : 0.f;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const auto z = [&](int f, int half) { return d[f][j * 4 + half * 2 + e]; };
      const float mean = over_rows(z) * scale;
      const float m2 = over_rows([&](int f, int half) { return (z(f, half) - mean) * (z(f, half) - mean); });
      if (lane < 4) of_warp[warp * kN + j * 8 + lane * 2 + e] = {static_cast<int64_t>(count), mean, m2};
    }
  }
  named_barrier(kEpilogueBarrier, Gemm::kConsumers);
  const int column = threadIdx.x, channel = tile.column_block * kN + column;
  if (column < kN && channel < args.out_channels) {
    const MomentsOp::Channel centre = MomentsOp::centre(of_warp[column]);
    SumPair sum{};
    int64_t pixels_of_tile = 0;
    for (int i = 0; i < Gemm::kConsumerWarps; ++i) {
      const Moments part = of_warp[i * kN + column];
      sum = merge(sum, MomentsOp::open(part, centre));
      pixels_of_tile += part.count;
    }
    args.moments[static_cast<int64_t>(channel) * args.row_blocks + tile.row_block] =
        pixels_of_tile > 0 ? MomentsOp::close(sum, centre, pixels_of_tile) : Moments{};
  }
  named_barrier(kEpilogueBarrier, Gemm::kConsumers);  // of_warp is free
}

template <class Gemm>
__device__ __forceinline__ void store_partial(const ConvSm90aArgs& args, const ConvTile& tile,
                                              const typename Gemm::Sums& d, const TilePixels<Gemm>& pixels) {
  const int64_t split0 = int64_t{tile.split} * args.samples * args.out_h * args.out_w * args.out_channels;
  Gemm::for_each_pair(d, [&](int j, int f, int half, float2 pair) {
    const int pixel = pixels.pixel[f][half], channel = tile.column_block * Gemm::kN + Gemm::column_of(j);
    if (pixel < 0 || channel >= args.out_channels) return;
    const int64_t to = split0 + static_cast<int64_t>(pixel) * args.out_channels + channel;
    *reinterpret_cast<float2*>(args.partial + to) = pair;
  });
}

template <class Gemm>
__device__ __forceinline__ void store_image(const ConvSm90aArgs& args, const ConvTile& tile,
                                            const typename Gemm::Sums& d, const TilePixels<Gemm>& pixels, void* image) {
  Gemm::for_each_vector(d, [&](int group, int f, int half, uint4 vector) {
    const int pixel = pixels.pixel[f][half], channel = tile.column_block * Gemm::kN + Gemm::column_of_group(group);
    if (pixel < 0 || channel >= args.out_channels) return;
    auto* to = static_cast<typename Gemm::T*>(image) + static_cast<int64_t>(pixel) * args.out_channels + channel;
    *reinterpret_cast<uint4*>(to) = vector;
  });
}

// BatchNorm, by all warps of all blocks, which have shares of the channels: mean, var and invstd from all tiles'
// moments.
template <class Gemm>
__device__ __forceinline__ void combine_moments(const ConvSm90aArgs& args) {
  const MomentsOp op{args.p.mean, args.p.var, args.p.invstd, args.p.eps};
  const int64_t count = int64_t{args.samples} * args.out_h * args.out_w;
  constexpr int kWarps = Gemm::kThreads / kWarp;
  __syncwarp();
  grid_sync();
  for (int c = blockIdx.x * kWarps + threadIdx.x / kWarp; c < args.out_channels; c += gridDim.x * kWarps) {
    combine_channel<2>(op, args.moments, args.row_blocks, c, count);
  }
  __syncwarp();
  grid_sync();
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, 1)
    conv_gemm_sm90a_kernel(const __grid_constant__ ConvSm90aArgs args) {
  FASTGAN_DYNAMIC_SHARED(dynamic);
  FASTGAN_SHARED(Moments, of_warp, Gemm::kConsumerWarps* Gemm::kN);
  FASTGAN_SHARED(float, bias, Gemm::kN);
  FASTGAN_SHARED(ChannelAffine, affine, Gemm::kN);
  constexpr int kOfEpilogue = Gemm::kConsumerWarps * sizeof(Moments) + sizeof(float) + sizeof(ChannelAffine);
  static_assert(Gemm::kSharedBytes + Gemm::kN * kOfEpilogue <= 226 << 10, "with mbarriers, the 227 KiB of a block");
  typename Gemm::Ring ring(dynamic);
  const bool batch_norm = args.p.epilogue == ConvEpilogue::BatchNorm;
  if (threadIdx.x >= Gemm::kConsumers) {
    if (threadIdx.x == Gemm::kConsumers) {
      for (int number = blockIdx.x; number < args.tiles(); number += gridDim.x) {
        copy_tile<Gemm>(args, ConvTile(args, number), ring);
      }
    }
    if (batch_norm) combine_moments<Gemm>(args);
    return;
  }
  for (int number = blockIdx.x; number < args.tiles(); number += gridDim.x) {
    const ConvTile tile(args, number);
    typename Gemm::Sums d;
    ring.multiply(d, tile.steps.count);
    const TilePixels<Gemm> pixels(args, tile);
    if (args.splits > 1) {
      store_partial<Gemm>(args, tile, d, pixels);
      continue;
    }
    make_z<Gemm>(args, tile, d, bias);
    if (args.p.epilogue == ConvEpilogue::Statistics || batch_norm) write_moments<Gemm>(args, tile, d, pixels, of_warp);
    if (batch_norm) {
      if (args.p.z) store_image<Gemm>(args, tile, d, pixels, args.p.z);
      combine_moments<Gemm>(args);  // of a launch of one tile a block
    }
    if (normalises(args.p)) make_out<Gemm>(args, tile, d, affine);
    store_image<Gemm>(args, tile, d, pixels, args.p.out);
  }
}

// How a call is cut: tiles of rows x columns.
struct ConvSm90aPlan {
  int rows, columns;
  ConvSm90aArgs args;  // complete but for the tensor maps
};

// The first phase has the most pixels.
int row_blocks_of(const ConvSm90aArgs& args, const PixelBox& box) { return box.tiles() * args.phases.phases; }

void choose_tile(ConvSm90aPlan& plan) {
  ConvSm90aArgs& a = plan.args;
  const auto box_of = [&](int log_pixels) {
    const ConvPhase& first = a.phases.phase[0];
    return choose_box(log_pixels, first.width, first.height, a.samples, a.phases.step_w, a.phases.step_h);
  };
  plan.columns = a.out_channels > 64 ? 128 : 64;
  a.column_blocks = static_cast<int>(ceil_div(a.out_channels, plan.columns));
  const auto turns = [&](const PixelBox& box) {
    return ceil_div(int64_t{row_blocks_of(a, box)} * a.column_blocks, FASTGAN_CONV_BLOCKS);
  };
  const PixelBox small = box_of(7), large = box_of(8);
  const bool many = plan.columns == 128 && 2 * turns(large) <= turns(small);
  plan.rows = many ? 256 : 128;
  a.box = many ? large : small;
  a.row_blocks = row_blocks_of(a, a.box);
}

ConvSm90aPlan plan_conv_gemm_sm90a(const ConvGemmParams& p) {
  ConvSm90aPlan plan{};
  ConvSm90aArgs& a = plan.args;
  const ConvShape& s = p.shape;
  const bool up = p.direction == ConvDirection::Up;
  a.p = p;
  if (p.epilogue == ConvEpilogue::BatchNorm) a.p.channels.mean = p.mean, a.p.channels.invstd = p.invstd;
  a.phases = conv_phases(s, p.direction);
  a.samples = static_cast<int>(s.samples);
  a.out_h = static_cast<int>(up ? s.fine_h : s.coarse_h);
  a.out_w = static_cast<int>(up ? s.fine_w : s.coarse_w);
  a.out_channels = static_cast<int>(up ? s.fine_channels : s.coarse_channels);
  a.steps_per_tap = static_cast<int>(ceil_div(up ? s.coarse_channels : s.fine_channels, 64));
  choose_tile(plan);
  int fewest_taps = kMaxTaps;
  for (int i = 0; i < a.phases.phases; ++i) fewest_taps = std::min<int>(fewest_taps, a.phases.phase[i].taps);
  const int64_t tiles = int64_t{a.column_blocks} * a.row_blocks, steps = int64_t{fewest_taps} * a.steps_per_tap;
  const bool few = tiles < FASTGAN_CONV_BLOCKS && p.epilogue != ConvEpilogue::BatchNorm;
  a.splits = few ? splits_in_rounds(tiles, steps, FASTGAN_CONV_BLOCKS, kStepsOfLaunch) : 1;
  a.partial = static_cast<float*>(p.workspace);
  a.moments = static_cast<Moments*>(p.workspace);
  return plan;
}

cudaError_t encode_maps(const ConvGemmParams& p, ConvSm90aPlan& plan) {
  const ConvShape& s = p.shape;
  const bool up = p.direction == ConvDirection::Up;
  ConvSm90aArgs& args = plan.args;
  FASTGAN_RETURN_IF_ERROR(encode_boxes(args.box, p.x, s.samples, up ? s.coarse_h : s.fine_h, up ? s.coarse_w : s.fine_w,
                                       up ? s.coarse_channels : s.fine_channels, args.phases.step_w, args.phases.step_h,
                                       &args.x));
  const auto u = [](int64_t x) { return static_cast<uint64_t>(x); };
  const uint64_t taps = u(s.kernel_h * s.kernel_w), fine = u(s.fine_channels);
  const BoxedTensor<3> weight{p.weight,
                              {fine, taps, u(s.coarse_channels)},
                              {fine * 2, taps * fine * 2},
                              {64, 1, up ? 64 : static_cast<uint32_t>(plan.columns)},
                              {1, 1, 1},
                              128};
  return encode_tensor_map(weight, &args.weight);
}

// Calls body(WgmmaGemm, kernel) with those of a plan.
template <class T, ConvDirection kDirection, class Body>
cudaError_t with_sm90a_kernel(const ConvSm90aPlan& plan, Body&& body) {
  const auto run = [&](auto gemm) { return body(gemm, conv_gemm_sm90a_kernel<decltype(gemm)>); };
  if (plan.rows == 256) return run(ConvGemmSm90a<T, kDirection, 256, 128>{});
  if (plan.columns == 128) return run(ConvGemmSm90a<T, kDirection, 128, 128>{});
  return run(ConvGemmSm90a<T, kDirection, 128, 64>{});
}

template <class Body>
cudaError_t with_sm90a_kernel(const ConvSm90aPlan& plan, Body&& body) {
  const auto run = [&](auto element) {
    using T = decltype(element);
    return plan.args.p.direction == ConvDirection::Up ? with_sm90a_kernel<T, ConvDirection::Up>(plan, body)
                                                      : with_sm90a_kernel<T, ConvDirection::Down>(plan, body);
  };
  return plan.args.p.dtype == DType::BFloat16 ? run(__nv_bfloat16{}) : run(__half{});
}

// BatchNorm: has every tile a block of its own, and do all of those run at the same time?
bool fits_one_launch(const ConvSm90aPlan& plan) {
  if (plan.args.tiles() > FASTGAN_CONV_BLOCKS) return false;
  int64_t resident = 0;
  with_sm90a_kernel(plan, [&](auto gemm, auto kernel) {
    using Gemm = decltype(gemm);
    resident = resident_blocks(kernel, Gemm::kThreads, Gemm::kSharedBytes);
    return cudaSuccess;
  });
  return plan.args.tiles() <= resident;
}

cudaError_t combine_statistics(const ConvSm90aArgs& args, cudaStream_t stream) {
  const ConvGemmParams& p = args.p;
  const dim3 channels(static_cast<unsigned>(ceil_div(args.out_channels, kChannelThreads / kWarp)));
  return launch(combine<MomentsOp>, channels, dim3(kChannelThreads), stream, MomentsOp{p.mean, p.var, p.invstd, p.eps},
                static_cast<const Moments*>(args.moments), args.row_blocks, args.out_channels,
                int64_t{args.samples} * args.out_h * args.out_w);
}

}  // namespace

bool conv_gemm_sm90a_covers(const ConvGemmParams& p) {
  const ConvShape& s = p.shape;
  const bool aligned = aligned16(p.x) && aligned16(p.weight) && aligned16(p.out) && aligned16(p.z);
  const bool tanh = normalises(p) && p.activation == Activation::Tanh;
  const bool operands = p.dtype != DType::Float32 && p.weight_layout == Layout::ChannelsLast &&
                        s.coarse_channels % 8 == 0 && s.fine_channels % 8 == 0 && aligned;
  const bool geometry = s.fits() && s.kernel_h >= s.stride_h && s.kernel_w >= s.stride_w && s.stride_h <= 8 &&
                        s.stride_w <= 8;
  return operands && geometry && !tanh &&
         (p.epilogue != ConvEpilogue::BatchNorm || fits_one_launch(plan_conv_gemm_sm90a(p)));
}

int64_t conv_gemm_sm90a_workspace(const ConvGemmParams& p) {
  const ConvSm90aArgs args = plan_conv_gemm_sm90a(p).args;
  if (args.splits > 1) return split_workspace(p, args.splits);
  if (p.epilogue != ConvEpilogue::Statistics && p.epilogue != ConvEpilogue::BatchNorm) return 0;
  return static_cast<int64_t>(sizeof(Moments)) * args.row_blocks * args.out_channels;
}

cudaError_t conv_gemm_sm90a(const ConvGemmParams& p, cudaStream_t stream) {
  if (!conv_gemm_sm90a_covers(p)) return cudaErrorNotSupported;
  ConvSm90aPlan plan = plan_conv_gemm_sm90a(p);
  const ConvSm90aArgs& args = plan.args;
  FASTGAN_RETURN_IF_ERROR(encode_maps(p, plan));
  return with_sm90a_kernel(plan, [&](auto gemm, auto kernel) {
    using Gemm = decltype(gemm);
    const dim3 grid(static_cast<unsigned>(std::min(args.tiles(), FASTGAN_CONV_BLOCKS))), block(Gemm::kThreads);
    if (p.epilogue == ConvEpilogue::BatchNorm) {
      return launch_cooperative(kernel, grid, block, Gemm::kSharedBytes, stream, args);
    }
    FASTGAN_RETURN_IF_ERROR(launch_with_shared(kernel, grid, block, Gemm::kSharedBytes, stream, args));
    if (args.splits > 1) return finish_splits<typename Gemm::T>(p, args.partial, args.splits, stream);
    return p.epilogue == ConvEpilogue::Statistics ? combine_statistics(args, stream) : cudaSuccess;
  });
}

}  // namespace fastgan::cuda
