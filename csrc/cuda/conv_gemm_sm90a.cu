// conv_gemm_sm90a: a convolution or transposed convolution as matrix products by phases, on wgmma; conv_gemm.h has the
// formula, ptx_sm90a.cuh the layouts.
//
// Shapes and order   x, out channels_last; weight (C, kh, kw, c). Read through tensor maps as they are, nothing is
//                    packed: A = 128 pixels x 64 input channels, K-major, a box (64, w, h, n) of x, shifted by the tap
//                    and with the stride as traversal stride; the padding, and channels past the last, arrive as zeros.
//                    B = 64 input channels x kN output channels: of Up the output channels are contiguous (MN-major),
//                    of Down the input channels (K-major).
// Tiles              128 pixels, a box tile_w x tile_h x tile_n of one phase, by kN = 64 or 128 output channels;
//                    channel blocks of the same pixels come after each other, then the phases, which read the same
//                    pixels.
// Work               persistent blocks take tiles in turn. Warps 0..7 are two warpgroups that multiply, 64 pixels each;
//                    one thread of warp 8 copies, up to kRingStages steps of 64 channels ahead and past the end of a
//                    tile, so that the epilogue of one tile runs beside the copies of the next.
// Registers          kN / 2 sums a thread.
// Shared memory      kRingStages x (16 KiB + kN / 8 KiB), mbarriers `full` and `empty` for each stage.
// Epilogue           z = sum + bias, rounded; groups of 4 lanes exchange what they hold so that each stores 16 bytes.
//                    Statistics are those of z as stored: mean and squared deviations of a warp's 16 pixels, of the 8
//                    warps merged in order, then of the tiles by `combine`: nothing depends on how many blocks run.
// Assumptions        conv_gemm_sm90a_covers().
// Numerics           sums in float by the tensor cores, in the order of taps and channels.
#include "conv_gemm_sm90a.h"

#include "channel_reduce.cuh"
#include "moments.cuh"
#include "tensor_map_sm90a.cuh"
#include "wgmma_tile_sm90a.cuh"

namespace fastgan::cuda {
namespace {

constexpr int kTilePixels = 128, kDepth = 64, kRingStages = 4;
constexpr int kConsumerWarps = 8, kConsumers = kConsumerWarps * kWarp, kThreads = kConsumers + kWarp;
constexpr int kWarpPixels = kTilePixels / kConsumerWarps;
constexpr int kPersistentBlocks = 132;  // of an H100 or H200; another number changes the speed alone
constexpr int kEpilogueBarrier = 1;

struct ConvSm90aArgs {
  CUtensorMap x, weight;
  ConvPhases phases;
  int log_w, log_h;                     // of a tile: tile_w = 1 << log_w, ...; tile_n is the rest of 128
  int tiles_w, tiles_h, tiles_n;        // of the largest phase
  int column_blocks, row_blocks, steps_per_tap;
  int samples, out_h, out_w, out_channels;
  const void* bias;
  void* out;
  Moments* moments;                     // (out_channels, row_blocks), or null: no statistics
};

// Tile number `tile` of the launch.
struct Tile {
  int column0, row_block, w0, h0, n0;
  ConvPhase phase;

  __device__ __forceinline__ Tile(const ConvSm90aArgs& args, int tile) {
    column0 = tile % args.column_blocks;  // the caller knows how wide a block is
    row_block = tile / args.column_blocks;
    int rest = row_block / args.phases.phases;
    phase = args.phases.phase[row_block % args.phases.phases];
    w0 = rest % args.tiles_w << args.log_w;
    rest /= args.tiles_w;
    h0 = rest % args.tiles_h << args.log_h;
    n0 = rest / args.tiles_h * (kTilePixels >> (args.log_w + args.log_h));
  }
};

template <ConvDirection kDirection, int kN>
struct ConvTiles {
  static constexpr Major kMajorB = kDirection == ConvDirection::Up ? Major::MN : Major::K;
  using A = WgmmaTile<Major::K, kTilePixels, kDepth>;
  using B = WgmmaTile<kMajorB, kN, kDepth>;
  static constexpr int kStageBytes = A::kBytes + B::kBytes;
  static constexpr int kSharedBytes = kRingStages * kStageBytes + A::kAlignment;
};

// A place in the ring, and the parity of its round.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage == kRingStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <ConvDirection kDirection, int kN>
__device__ __forceinline__ void copy_tiles(const ConvSm90aArgs& args, unsigned char* ring, uint64_t* full,
                                           uint64_t* empty) {
  using Tiles = ConvTiles<kDirection, kN>;
  RingPlace place;
  for (int number = blockIdx.x; number < args.row_blocks * args.column_blocks; number += gridDim.x) {
    const Tile tile(args, number);
    const int w = tile.w0 * args.phases.step_w, h = tile.h0 * args.phases.step_h, column0 = tile.column0 * kN;
    for (int t = 0; t < tile.phase.taps; ++t) {
      const ConvTap tap = args.phases.tap[tile.phase.first_tap + t];
      for (int step = 0; step < args.steps_per_tap; ++step, place.next()) {
        unsigned char* a = ring + place.stage * Tiles::kStageBytes;
        unsigned char* b = a + Tiles::A::kBytes;
        uint64_t* landed = full + place.stage;
        mbarrier_wait(empty + place.stage, place.parity ^ 1);
        mbarrier_arrive_expect_tx(landed, Tiles::kStageBytes);
        tensor_copy(a, &args.x, landed, step * kDepth, w + tap.dw, h + tap.dh, tile.n0);
        if constexpr (Tiles::kMajorB == Major::K) {
          tensor_copy(b, &args.weight, landed, step * kDepth, tap.t, column0);
        } else {
#pragma unroll
          for (int box = 0; box < Tiles::B::kBoxes; ++box) {
            tensor_copy(b + box * Tiles::B::kBoxBytes, &args.weight, landed, column0 + box * Tiles::B::kBoxWidth, tap.t,
                        step * kDepth);
          }
        }
      }
    }
  }
}

// The sums of one tile. One step's products are on their way while the next one's are issued.
template <class T, ConvDirection kDirection, int kN>
__device__ __forceinline__ void multiply_tile(float (&d)[kN / 2], int steps, unsigned char* ring, uint64_t* full,
                                              uint64_t* empty, RingPlace& place) {
  using Tiles = ConvTiles<kDirection, kN>;
  const int row = threadIdx.x / kWarp / 4 * 64;
  uint64_t* previous = nullptr;
  for (int step = 0; step < steps; ++step, place.next()) {
    const uint32_t a = shared_address(ring + place.stage * Tiles::kStageBytes), b = a + Tiles::A::kBytes;
    mbarrier_wait(full + place.stage, place.parity);
    wgmma_fence(d);
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i) {
      wgmma<T, Major::K, Tiles::kMajorB>(d, Tiles::A::descriptor(a, row, i), Tiles::B::descriptor(b, 0, i),
                                         step > 0 || i > 0);
    }
    wgmma_commit_group();
    wgmma_wait_group<1>(d);
    if (previous && threadIdx.x % kWarp == 0) mbarrier_arrive(previous);
    previous = empty + place.stage;
  }
  wgmma_wait_group<0>(d);
  if (threadIdx.x % kWarp == 0) mbarrier_arrive(previous);
}

// Over the 8 lanes that hold the same columns.
__device__ __forceinline__ float sum_of_rows(float x) {
#pragma unroll
  for (int distance = 4; distance < kWarp; distance *= 2) x += __shfl_xor_sync(kFullMask, x, distance);
  return x;
}

// Moments of every column over the warp's pixels, merged over the warps; d holds z as stored.
template <int kN>
__device__ __forceinline__ void write_moments(const ConvSm90aArgs& args, const Tile& tile, const float (&d)[kN / 2],
                                              const bool (&valid)[2], Moments* of_warp) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const float count = sum_of_rows(static_cast<float>(valid[0] + valid[1])), scale = count > 0.f ? 1.f / count : 0.f;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float z0 = d[j * 4 + e], z1 = d[j * 4 + 2 + e];
      const float mean = sum_of_rows((valid[0] ? z0 : 0.f) + (valid[1] ? z1 : 0.f)) * scale;
      const float d0 = valid[0] ? z0 - mean : 0.f, d1 = valid[1] ? z1 - mean : 0.f;
      const float m2 = sum_of_rows(fmaf(d0, d0, d1 * d1));
      if (lane < 4) of_warp[warp * kN + j * 8 + lane * 2 + e] = {static_cast<int64_t>(count), mean, m2};
    }
  }
  named_barrier(kEpilogueBarrier, kConsumers);
  const int column = threadIdx.x, channel = tile.column0 * kN + column;
  if (column < kN && channel < args.out_channels) {
    const MomentsOp::Channel centre = MomentsOp::centre(of_warp[column]);
    SumPair sum{};
    int64_t pixels = 0;
    for (int i = 0; i < kConsumerWarps; ++i) {
      const Moments part = of_warp[i * kN + column];
      sum = merge(sum, MomentsOp::open(part, centre));
      pixels += part.count;
    }
    args.moments[static_cast<int64_t>(channel) * args.row_blocks + tile.row_block] =
        pixels > 0 ? MomentsOp::close(sum, centre, pixels) : Moments{};
  }
  named_barrier(kEpilogueBarrier, kConsumers);  // of_warp is free
}

// Lane q of 4 has registers [q][0..3] and gets [0..3][q].
__device__ __forceinline__ void transpose_quad(uint32_t (&r)[4]) {
  const int lane = threadIdx.x % kWarp;
  const auto swap = [&](uint32_t& low, uint32_t& high, int distance) {
    const bool upper = lane & distance;
    const uint32_t received = __shfl_xor_sync(kFullMask, upper ? low : high, distance);
    (upper ? low : high) = received;
  };
  swap(r[0], r[2], 2);
  swap(r[1], r[3], 2);
  swap(r[0], r[1], 1);
  swap(r[2], r[3], 1);
}

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  const T pair[2] = {from_float<T>(low), from_float<T>(high)};
  uint32_t packed;
  memcpy(&packed, pair, sizeof packed);
  return packed;
}

template <class T, int kN>
__device__ __forceinline__ void store_tile(const ConvSm90aArgs& args, const Tile& tile, float (&d)[kN / 2],
                                           Moments* of_warp) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, column0 = tile.column0 * kN;
  bool valid[2];
  int64_t pixel[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * kWarpPixels + lane / 4 + half * 8;
    const int w = tile.w0 + (row & ((1 << args.log_w) - 1));
    const int h = tile.h0 + (row >> args.log_w & ((1 << args.log_h) - 1));
    const int n = tile.n0 + (row >> (args.log_w + args.log_h));
    valid[half] = w < tile.phase.width && h < tile.phase.height && n < args.samples;
    const int y = h * args.phases.out_step_h + tile.phase.py, x = w * args.phases.out_step_w + tile.phase.px;
    pixel[half] = ((static_cast<int64_t>(n) * args.out_h + y) * args.out_w + x) * args.out_channels;
  }
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int channel = column0 + j * 8 + lane % 4 * 2 + e;
      const bool biased = args.bias && channel < args.out_channels;
      const float bias = biased ? to_float(static_cast<const T*>(args.bias)[channel]) : 0.f;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& z = d[j * 4 + half * 2 + e];
        z = to_float(from_float<T>(z + bias));
      }
    }
  }
  if (args.moments) write_moments<kN>(args, tile, d, valid, of_warp);
#pragma unroll
  for (int group = 0; group < kN / 32; ++group) {
    const int channel = column0 + group * 32 + lane % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t r[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int e = (group * 4 + j) * 4 + half * 2;
        r[j] = pack<T>(d[e], d[e + 1]);
      }
      transpose_quad(r);
      if (valid[half] && channel < args.out_channels) {
        T* to = static_cast<T*>(args.out) + pixel[half] + channel;
        *reinterpret_cast<uint4*>(to) = make_uint4(r[0], r[1], r[2], r[3]);
      }
    }
  }
}

template <class T, ConvDirection kDirection, int kN>
__global__ void __launch_bounds__(kThreads, 1) conv_gemm_sm90a_kernel(const __grid_constant__ ConvSm90aArgs args) {
  FASTGAN_DYNAMIC_SHARED(dynamic);
  FASTGAN_SHARED(uint64_t, full, kRingStages);
  FASTGAN_SHARED(uint64_t, empty, kRingStages);
  FASTGAN_SHARED(Moments, of_warp, kConsumerWarps* kN);
  unsigned char* ring = dynamic + (0u - shared_address(dynamic)) % ConvTiles<kDirection, kN>::A::kAlignment;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kRingStages; ++stage) {
      mbarrier_init(full + stage, 1);
      mbarrier_init(empty + stage, kConsumerWarps);
    }
    fence_proxy_async();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    if (threadIdx.x == kConsumers) copy_tiles<kDirection, kN>(args, ring, full, empty);
    return;
  }
  RingPlace place;
  for (int number = blockIdx.x; number < args.row_blocks * args.column_blocks; number += gridDim.x) {
    const Tile tile(args, number);
    float d[kN / 2];
    multiply_tile<T, kDirection, kN>(d, tile.phase.taps * args.steps_per_tap, ring, full, empty, place);
    store_tile<T, kN>(args, tile, d, of_warp);
  }
}

// The box of 128 pixels that needs the fewest tiles, the widest of those: both as powers of two.
void choose_box(ConvSm90aArgs& args, const ConvPhase& phase) {
  int64_t fewest = -1;
  for (int log_w = 7; log_w >= 0; --log_w) {
    for (int log_h = 7 - log_w; log_h >= 0; --log_h) {
      if (args.phases.step_w << log_w > 256 || args.phases.step_h << log_h > 256) continue;  // a box of a tensor map
      const int log_n = 7 - log_w - log_h;
      const int64_t w = ceil_div(phase.width, 1 << log_w), h = ceil_div(phase.height, 1 << log_h);
      const int64_t n = ceil_div(args.samples, 1 << log_n);
      if (fewest >= 0 && w * h * n >= fewest) continue;
      fewest = w * h * n;
      args.log_w = log_w, args.log_h = log_h;
      args.tiles_w = static_cast<int>(w), args.tiles_h = static_cast<int>(h), args.tiles_n = static_cast<int>(n);
    }
  }
  args.row_blocks = static_cast<int>(fewest) * args.phases.phases;
}

ConvSm90aArgs plan_conv_gemm_sm90a(const ConvGemmParams& p, int columns) {
  ConvSm90aArgs args{};
  const ConvShape& s = p.shape;
  const bool up = p.direction == ConvDirection::Up;
  args.phases = conv_phases(s, p.direction);
  args.samples = static_cast<int>(s.samples);
  args.out_h = static_cast<int>(up ? s.fine_h : s.coarse_h);
  args.out_w = static_cast<int>(up ? s.fine_w : s.coarse_w);
  args.out_channels = static_cast<int>(up ? s.fine_channels : s.coarse_channels);
  args.column_blocks = static_cast<int>(ceil_div(args.out_channels, columns));
  args.steps_per_tap = static_cast<int>(ceil_div(up ? s.coarse_channels : s.fine_channels, kDepth));
  choose_box(args, args.phases.phase[0]);  // the first phase has the most pixels
  args.bias = p.bias;
  args.out = p.out;
  args.moments = p.epilogue == ConvEpilogue::Statistics ? static_cast<Moments*>(p.workspace) : nullptr;
  return args;
}

int columns_of(const ConvGemmParams& p) {
  const bool up = p.direction == ConvDirection::Up;
  return (up ? p.shape.fine_channels : p.shape.coarse_channels) > 64 ? 128 : 64;
}

cudaError_t encode_maps(const ConvGemmParams& p, ConvSm90aArgs& args, int columns) {
  const ConvShape& s = p.shape;
  const bool up = p.direction == ConvDirection::Up;
  const auto u = [](int64_t x) { return static_cast<uint64_t>(x); };
  const auto v = [](int64_t x) { return static_cast<uint32_t>(x); };
  const uint64_t c = u(up ? s.coarse_channels : s.fine_channels), w = u(up ? s.coarse_w : s.fine_w);
  const uint64_t h = u(up ? s.coarse_h : s.fine_h);
  const uint32_t tile_n = kTilePixels >> (args.log_w + args.log_h);
  const BoxedTensor<4> x{p.x,
                         {c, w, h, u(s.samples)},
                         {c * 2, w * c * 2, h * w * c * 2},
                         {kDepth, 1u << args.log_w, 1u << args.log_h, tile_n},
                         {1, v(args.phases.step_w), v(args.phases.step_h), 1},
                         128};
  FASTGAN_RETURN_IF_ERROR(encode_tensor_map(x, &args.x));
  const uint64_t taps = u(s.kernel_h * s.kernel_w), fine = u(s.fine_channels);
  const BoxedTensor<3> weight{p.weight,
                              {fine, taps, u(s.coarse_channels)},
                              {fine * 2, taps * fine * 2},
                              {kDepth, 1, v(up ? kDepth : columns)},
                              {1, 1, 1},
                              128};
  return encode_tensor_map(weight, &args.weight);
}

template <class T, ConvDirection kDirection, int kN>
cudaError_t run(const ConvGemmParams& p, cudaStream_t stream) {
  ConvSm90aArgs args = plan_conv_gemm_sm90a(p, kN);
  FASTGAN_RETURN_IF_ERROR(encode_maps(p, args, kN));
  const int tiles = args.row_blocks * args.column_blocks;
  const dim3 grid(static_cast<unsigned>(tiles < kPersistentBlocks ? tiles : kPersistentBlocks));
  FASTGAN_RETURN_IF_ERROR(launch_with_shared(conv_gemm_sm90a_kernel<T, kDirection, kN>, grid, dim3(kThreads),
                                             ConvTiles<kDirection, kN>::kSharedBytes, stream, args));
  if (!args.moments) return cudaSuccess;
  const dim3 channels(static_cast<unsigned>(ceil_div(args.out_channels, kChannelThreads / kWarp)));
  return launch(combine<MomentsOp>, channels, dim3(kChannelThreads), stream, MomentsOp{p.mean, p.var, p.invstd, p.eps},
                static_cast<const Moments*>(args.moments), args.row_blocks, args.out_channels,
                int64_t{args.samples} * args.out_h * args.out_w);
}

template <class T>
cudaError_t run(const ConvGemmParams& p, cudaStream_t stream) {
  const bool wide = columns_of(p) == 128;
  if (p.direction == ConvDirection::Up) {
    return wide ? run<T, ConvDirection::Up, 128>(p, stream) : run<T, ConvDirection::Up, 64>(p, stream);
  }
  return wide ? run<T, ConvDirection::Down, 128>(p, stream) : run<T, ConvDirection::Down, 64>(p, stream);
}

}  // namespace

bool conv_gemm_sm90a_covers(const ConvGemmParams& p) {
  const ConvShape& s = p.shape;
  const bool aligned = aligned16(p.x) && aligned16(p.weight) && aligned16(p.out);
  return p.dtype != DType::Float32 && p.weight_layout == Layout::ChannelsLast && s.coarse_channels % 8 == 0 &&
         s.fine_channels % 8 == 0 && aligned && s.kernel_h >= s.stride_h && s.kernel_w >= s.stride_w &&
         s.stride_h <= 8 && s.stride_w <= 8 && p.epilogue != ConvEpilogue::Normalise;
}

int64_t conv_gemm_sm90a_workspace(const ConvGemmParams& p) {
  if (p.epilogue != ConvEpilogue::Statistics) return 0;
  const ConvSm90aArgs args = plan_conv_gemm_sm90a(p, columns_of(p));
  return static_cast<int64_t>(sizeof(Moments)) * args.row_blocks * args.out_channels;
}

cudaError_t conv_gemm_sm90a(const ConvGemmParams& p, cudaStream_t stream) {
  if (!conv_gemm_sm90a_covers(p)) return cudaErrorNotSupported;
  return p.dtype == DType::BFloat16 ? run<__nv_bfloat16>(p, stream) : run<__half>(p, stream);
}

}  // namespace fastgan::cuda
