// conv_gemm_weight_grad_sm90a: dweight[C, c, a, b] = sum_{n, i, j} coarse[n, i, j, C] * fine[n, I, J, c] on wgmma;
// conv_gemm.h has (I, J), ptx_sm90a.cuh the layouts.
//
// Shapes and order   both images channels_last, the weight in either order.
// Tiles              wgmma_gemm_sm90a.cuh, one product a tap: M = 128 coarse channels, N = 64 or 128 fine channels, K =
//                    coarse pixels. A step is a box of 64 pixels, tile_w x tile_h x tile_n.
// Operands           both with K, the pixels, outside and channels contiguous (MN-major), read through tensor maps: A
//                    the box of coarse as it lies, 64 channels a copy; B the pixels of fine that the tap joins with it:
//                    the box, shifted by the tap, with the stride as traversal stride. What lies outside an image
//                    arrives as zeros, and a product counts where both are inside: fine pixels that meet a coarse pixel
//                    past the edge meet a zero. (An infinity among them makes a NaN of it, which without the boxes'
//                    rounding up would not be there.)
// Work               persistent blocks take tiles in turn: the taps of a block of channels after each other, then the
//                    blocks of channels, then the splits of K. Taps side by side read the same pixels, all but the
//                    first from L2.
// Split K            over boxes, so that every multiprocessor has a tile: conv_split.cuh adds the float sums up in
//                    order. One split of a channels_last weight is rounded and stored at once.
// Registers          kN / 2 sums a thread, 8 neighbouring channels stored at once.
// Shared memory      the ring alone.
// Assumptions        conv_gemm_weight_grad_sm90a_covers().
// Numerics           sums in float by the tensor cores, in an order fixed by the shape; no atomics: the same input
//                    gives the same bits.
#include "conv_gemm_weight_grad_sm90a.h"

#include "conv_split.cuh"
#include "pixel_box_sm90a.cuh"
#include "wgmma_gemm_sm90a.cuh"

namespace fastgan::cuda {
namespace {

template <class T, int kN>
using WeightGradGemm = WgmmaGemm<T, Major::MN, Major::MN, 128, kN>;

struct WeightGradSm90aArgs {
  CUtensorMap coarse, fine;
  ConvWeightGradParams p;
  PixelBox box;
  int taps, row_blocks, column_blocks, steps, splits;
  bool final;      // the sums of the one split are stored as the weight's gradient
  float* partial;  // else they go here, (splits, taps, coarse_channels, fine_channels)
};

int tiles_of(const WeightGradSm90aArgs& args) { return args.taps * args.row_blocks * args.column_blocks; }

// Tile number `number` of the launch.
template <class Gemm>
struct WeightGradTile {
  int tap, row0, column0, split;
  StepRange steps;

  __device__ __forceinline__ WeightGradTile(const WeightGradSm90aArgs& args, int number)
      : WeightGradTile(args, number % args.taps, number / args.taps) {}

 private:
  __device__ __forceinline__ WeightGradTile(const WeightGradSm90aArgs& args, int of_tap, int rest)
      : tap(of_tap),
        row0(rest % args.row_blocks * Gemm::kM),
        column0(rest / args.row_blocks % args.column_blocks * Gemm::kN),
        split(rest / args.row_blocks / args.column_blocks),
        steps(args.steps, args.splits, split) {}
};

template <class Gemm>
__device__ __forceinline__ void copy_tile(const WeightGradSm90aArgs& args, const WeightGradTile<Gemm>& tile,
                                          typename Gemm::Ring& ring) {
  const ConvShape& s = args.p.shape;
  const int tap_h = tile.tap / s.kernel_w - s.padding_h, tap_w = tile.tap % s.kernel_w - s.padding_w;
  for (int step = tile.steps.first; step < tile.steps.first + tile.steps.count; ++step) {
    const PixelBox::Corner at = args.box.corner(step);
    ring.fill([&](unsigned char* a, unsigned char* b, uint64_t* landed) {
#pragma unroll
      for (int i = 0; i < Gemm::A::kBoxes; ++i) {
        tensor_copy(a + i * Gemm::A::kBoxBytes, &args.coarse, landed, tile.row0 + i * Gemm::A::kBoxWidth, at.w, at.h,
                    at.n);
      }
#pragma unroll
      for (int i = 0; i < Gemm::B::kBoxes; ++i) {
        tensor_copy(b + i * Gemm::B::kBoxBytes, &args.fine, landed, tile.column0 + i * Gemm::B::kBoxWidth,
                    at.w * s.stride_w + tap_w, at.h * s.stride_h + tap_h, at.n);
      }
    });
  }
}

template <class Gemm>
__device__ __forceinline__ void store_tile(const WeightGradSm90aArgs& args, const WeightGradTile<Gemm>& tile,
                                           const typename Gemm::Sums& d) {
  const int coarse_channels = static_cast<int>(args.p.shape.coarse_channels);
  const int fine_channels = static_cast<int>(args.p.shape.fine_channels);
  if (!args.final) {
    const int64_t rows = (static_cast<int64_t>(tile.split) * args.taps + tile.tap) * coarse_channels;
    Gemm::for_each_pair(d, [&](int j, int f, int half, float2 pair) {
      const int row = tile.row0 + Gemm::row_of(f, half), column = tile.column0 + Gemm::column_of(j);
      if (row >= coarse_channels || column >= fine_channels) return;
      *reinterpret_cast<float2*>(args.partial + (rows + row) * fine_channels + column) = pair;
    });
    return;
  }
  Gemm::for_each_vector(d, [&](int group, int f, int half, uint4 vector) {
    const int row = tile.row0 + Gemm::row_of(f, half), column = tile.column0 + Gemm::column_of_group(group);
    if (row >= coarse_channels || column >= fine_channels) return;
    const int64_t to = (static_cast<int64_t>(row) * args.taps + tile.tap) * fine_channels + column;
    *reinterpret_cast<uint4*>(static_cast<typename Gemm::T*>(args.p.grad_weight) + to) = vector;
  });
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, 1)
    weight_grad_sm90a_kernel(const __grid_constant__ WeightGradSm90aArgs args, int tiles) {
  FASTGAN_DYNAMIC_SHARED(dynamic);
  typename Gemm::Ring ring(dynamic);
  if (threadIdx.x >= Gemm::kConsumers) {
    if (threadIdx.x != Gemm::kConsumers) return;
    for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
      copy_tile<Gemm>(args, WeightGradTile<Gemm>(args, number), ring);
    }
    return;
  }
  for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
    const WeightGradTile<Gemm> tile(args, number);
    typename Gemm::Sums d;
    ring.multiply(d, tile.steps.count);
    store_tile<Gemm>(args, tile, d);
  }
}

int weight_grad_columns(const ConvWeightGradParams& p) { return p.shape.fine_channels > 64 ? 128 : 64; }

WeightGradSm90aArgs plan_weight_grad_sm90a(const ConvWeightGradParams& p) {
  const ConvShape& s = p.shape;
  WeightGradSm90aArgs args{};
  args.p = p;
  args.box = choose_box(6, s.coarse_w, s.coarse_h, s.samples, s.stride_w, s.stride_h);
  args.taps = s.kernel_h * s.kernel_w;
  args.row_blocks = static_cast<int>(ceil_div(s.coarse_channels, 128));
  args.column_blocks = static_cast<int>(ceil_div(s.fine_channels, weight_grad_columns(p)));
  args.steps = args.box.tiles();
  args.splits = splits_in_rounds(tiles_of(args), args.steps, FASTGAN_CONV_BLOCKS, kStepsOfLaunch);
  args.final = args.splits == 1 && p.weight_layout == Layout::ChannelsLast;
  args.partial = static_cast<float*>(p.workspace);
  return args;
}

template <class T, int kN>
cudaError_t run_weight_grad_sm90a(const ConvWeightGradParams& p, cudaStream_t stream) {
  using Gemm = WeightGradGemm<T, kN>;
  const ConvShape& s = p.shape;
  WeightGradSm90aArgs args = plan_weight_grad_sm90a(p);
  FASTGAN_RETURN_IF_ERROR(encode_boxes(args.box, p.coarse, s.samples, s.coarse_h, s.coarse_w, s.coarse_channels, 1, 1,
                                       &args.coarse));
  FASTGAN_RETURN_IF_ERROR(encode_boxes(args.box, p.fine, s.samples, s.fine_h, s.fine_w, s.fine_channels, s.stride_w,
                                       s.stride_h, &args.fine));
  const int tiles = tiles_of(args) * args.splits;
  const dim3 grid(static_cast<unsigned>(tiles < FASTGAN_CONV_BLOCKS ? tiles : FASTGAN_CONV_BLOCKS));
  FASTGAN_RETURN_IF_ERROR(launch_with_shared(weight_grad_sm90a_kernel<Gemm>, grid, dim3(Gemm::kThreads),
                                             Gemm::kSharedBytes, stream, args, tiles));
  return args.final ? cudaSuccess : finish_weight_grad_splits<T>(p, args.partial, args.splits, stream);
}

}  // namespace

bool conv_gemm_weight_grad_sm90a_covers(const ConvWeightGradParams& p) {
  const ConvShape& s = p.shape;
  const bool aligned = aligned16(p.coarse) && aligned16(p.fine) && aligned16(p.grad_weight);
  return s.fits() && p.dtype != DType::Float32 && s.coarse_channels % 8 == 0 && s.fine_channels % 8 == 0 && aligned &&
         s.stride_h <= 8 && s.stride_w <= 8;
}

int64_t conv_gemm_weight_grad_sm90a_workspace(const ConvWeightGradParams& p) {
  const WeightGradSm90aArgs args = plan_weight_grad_sm90a(p);
  return args.final ? 0 : weight_grad_sums(p, args.splits);
}

cudaError_t conv_gemm_weight_grad_sm90a(const ConvWeightGradParams& p, cudaStream_t stream) {
  if (!conv_gemm_weight_grad_sm90a_covers(p)) return cudaErrorNotSupported;
  const auto run = [&](auto element) {
    using T = decltype(element);
    return weight_grad_columns(p) == 128 ? run_weight_grad_sm90a<T, 128>(p, stream)
                                         : run_weight_grad_sm90a<T, 64>(p, stream);
  };
  return p.dtype == DType::BFloat16 ? run(__nv_bfloat16{}) : run(__half{});
}

}  // namespace fastgan::cuda
