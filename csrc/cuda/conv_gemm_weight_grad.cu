// conv_gemm_weight_grad: dweight[C, c, a, b] = sum_{n, i, j} coarse[n, i, j, C] * fine[n, I, J, c], for sm_80; conv_gemm.h has
// (I, J).
//
// Tiles              conv_gemm_tile.cuh, one product a tap: M = coarse channels, N = fine channels, K = coarse pixels.
// Operands           both pixel by pixel, channels contiguous (KStrided). A is coarse as it lies; B
//                    gathers fine pixels, those outside the image as zero-filled copies. The taps of one block of channels run
//                    side by side and read the same pixels from L2.
// Split K            over pixels, so that blocks fill the multiprocessors evenly: float sums to the workspace, (splits, taps, C, c),
//                    added in order by a second launch, which rounds and writes the weight's own order. Always two launches: the
//                    second's bytes are small beside the images', except where an image is about the size of the kernel.
// Ragged             channels that are no multiple of 16 bytes: element by element (fill_chunk), each image for itself.
// Numerics           16-bit and tf32: products exact, sums in float by the tensor cores; tf32 operands are rounded to nearest.
//                    Else fused multiply-adds of float. The order is fixed by the shape, without atomics: the same input
//                    gives the same bits.
#include "conv_gemm.h"

#include "conv_gemm_tile.cuh"
#include "conv_split.cuh"

namespace fastgan::cuda {
namespace {

struct WeightGradArgs {
  ConvWeightGradParams p;
  int taps, pixels, steps, splits;  // pixels of coarse, all samples
  int column_blocks;
  bool coarse_by_chunk, fine_by_chunk;
  Divider width, height;            // of coarse
  float* partial;                   // (splits, taps, coarse_channels, fine_channels)
};

// Grid (taps * blocks of coarse channels * blocks of fine channels, splits), taps first.
template <class Gemm>
__global__ void __launch_bounds__(Gemm::kThreads, Gemm::kBlocksAnSm) weight_grad_kernel(const WeightGradArgs args) {
  using T = typename Gemm::T;
  using TileA = typename Gemm::TileA;
  using TileB = typename Gemm::TileB;
  constexpr int V = kVector<T>;
  FASTGAN_DYNAMIC_SHARED(ring);

  const ConvShape& s = args.p.shape;
  const int coarse_channels = static_cast<int>(s.coarse_channels), fine_channels = static_cast<int>(s.fine_channels);
  const int fine_h = static_cast<int>(s.fine_h), fine_w = static_cast<int>(s.fine_w);
  const int tap = blockIdx.x % args.taps, block = blockIdx.x / args.taps;
  const int tap_y = tap / s.kernel_w - s.padding_h, tap_x = tap % s.kernel_w - s.padding_w;
  const int row0 = block / args.column_blocks * Gemm::kM, column0 = block % args.column_blocks * Gemm::kN;
  const int row_a = threadIdx.x / TileA::kRowChunks, chunk_a = threadIdx.x % TileA::kRowChunks;
  const int row_b = threadIdx.x / TileB::kRowChunks, chunk_b = threadIdx.x % TileB::kRowChunks;

  const StepRange range(args.steps, args.splits, blockIdx.y);
  int pixel0 = range.first * kStep<T>;
  const auto fill = [&](unsigned char* a, unsigned char* b) {
#pragma unroll
    for (int i = 0; i < Gemm::kCopiesA; ++i) {
      const int row = row_a + i * (Gemm::kThreads / TileA::kRowChunks), pixel = pixel0 + row;
      const int valid = pixel < args.pixels ? coarse_channels - row0 - chunk_a * V : 0;
      const int offset = valid > 0 ? pixel * coarse_channels + row0 + chunk_a * V : 0;
      fill_chunk(a + TileA::offset(row, chunk_a), static_cast<const T*>(args.p.coarse) + offset, valid, args.coarse_by_chunk);
    }
#pragma unroll
    for (int i = 0; i < Gemm::kCopiesB; ++i) {
      const int row = row_b + i * (Gemm::kThreads / TileB::kRowChunks), pixel = pixel0 + row;
      const int line = args.width.quotient(pixel), n = args.height.quotient(line);
      const int y = (line - n * static_cast<int>(s.coarse_h)) * s.stride_h + tap_y;
      const int x = (pixel - line * static_cast<int>(s.coarse_w)) * s.stride_w + tap_x;
      const bool inside = pixel < args.pixels && static_cast<unsigned>(y) < static_cast<unsigned>(fine_h) &&
                          static_cast<unsigned>(x) < static_cast<unsigned>(fine_w);
      const int valid = inside ? fine_channels - column0 - chunk_b * V : 0;
      const int offset = valid > 0 ? ((n * fine_h + y) * fine_w + x) * fine_channels + column0 + chunk_b * V : 0;
      fill_chunk(b + TileB::offset(row, chunk_b), static_cast<const T*>(args.p.fine) + offset, valid, args.fine_by_chunk);
    }
    pixel0 += kStep<T>;
  };

  Gemm gemm;
  gemm.shared = ring;
  gemm.run(range.count, fill);

  const int column = column0 + Gemm::template column_of<4>();
  const int64_t rows0 = (static_cast<int64_t>(blockIdx.y) * args.taps + tap) * coarse_channels + row0;
  gemm.template for_each_vector<4>([&](int row, const float(&sums)[4]) {
    if (row0 + row >= coarse_channels) return;
    store_first(args.partial + (rows0 + row) * fine_channels + column, sums, fine_channels - column, fine_channels % 4 == 0);
  });
}

struct WeightGradPlan {
  int tile;
  unsigned blocks;
  WeightGradArgs args;  // complete but for partial
};

WeightGradPlan plan_weight_grad(const ConvWeightGradParams& p) {
  const ConvShape& s = p.shape;
  const int64_t element = p.dtype == DType::Float32 ? 4 : 2, pixels = s.samples * s.coarse_h * s.coarse_w;
  const auto by_chunk = [&](const void* image, int64_t channels) {
    return channels * element % kChunkBytes == 0 && aligned16(image);
  };
  const int taps = s.kernel_h * s.kernel_w, steps = static_cast<int>(ceil_div(pixels * element, kStepBytes));
  const int tile = s.coarse_channels > 64 && s.fine_channels > 64 ? 128 : 64;
  const int row_blocks = static_cast<int>(ceil_div(s.coarse_channels, tile));
  const int column_blocks = static_cast<int>(ceil_div(s.fine_channels, tile));
  const int64_t blocks = int64_t{taps} * row_blocks * column_blocks;
  const int64_t places = FASTGAN_CONV_BLOCKS * (tile == 128 ? 2 : 4);  // 512 threads a multiprocessor
  return {tile, static_cast<unsigned>(blocks),
          {p, taps, static_cast<int>(pixels), steps, splits_in_rounds(blocks, steps, places, 0), column_blocks,
           by_chunk(p.coarse, s.coarse_channels), by_chunk(p.fine, s.fine_channels),
           Divider(static_cast<uint32_t>(s.coarse_w)), Divider(static_cast<uint32_t>(s.coarse_h)), nullptr}};
}

template <class Math, int kTile>
cudaError_t run_weight_grad_tile(const WeightGradPlan& plan, cudaStream_t stream) {
  using Gemm = BlockGemm<Math, KOrder::KStrided, KOrder::KStrided, kTile, kTile>;
  const dim3 grid(plan.blocks, static_cast<unsigned>(plan.args.splits));
  return launch_with_shared(weight_grad_kernel<Gemm>, grid, dim3(Gemm::kThreads), Gemm::kSharedBytes, stream, plan.args);
}

template <class Math>
cudaError_t run_weight_grad(WeightGradPlan& plan, cudaStream_t stream) {
  const ConvWeightGradParams& p = plan.args.p;
  plan.args.partial = static_cast<float*>(p.workspace);
  FASTGAN_RETURN_IF_ERROR((plan.tile == 128 ? run_weight_grad_tile<Math, 128>(plan, stream)
                                            : run_weight_grad_tile<Math, 64>(plan, stream)));
  return finish_weight_grad_splits<typename Math::T>(p, p.workspace, plan.args.splits, stream);
}

}  // namespace

bool conv_gemm_weight_grad_covers(const ConvWeightGradParams& p) {
  return p.shape.fits();
}

int64_t conv_gemm_weight_grad_workspace(const ConvWeightGradParams& p) {
  return weight_grad_sums(p, plan_weight_grad(p).args.splits);
}

cudaError_t conv_gemm_weight_grad(const ConvWeightGradParams& p, cudaStream_t stream) {
  WeightGradPlan plan = plan_weight_grad(p);
  return with_math(p.dtype, p.tf32, [&](auto math) { return run_weight_grad<decltype(math)>(plan, stream); });
}

}  // namespace fastgan::cuda
