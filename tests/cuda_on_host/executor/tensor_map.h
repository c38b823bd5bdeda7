// Tensor maps and copies of their boxes: the host twins of csrc/cuda/ptx_sm90a.cuh, which has the layouts, and of the
// driver's cuTensorMapEncodeTiled, whose limits are checked here.
#pragma once

#include <cuda.h>

#include <array>

#include "async_copy.h"

namespace cuda_on_host {

// What a CUtensorMap holds here; on a device it is the driver's secret.
struct TensorMapModel {
  static constexpr uint32_t kMagic = 0x7A904D61;
  uint32_t magic;
  uint8_t rank, element_bytes, swizzle_bits;  // swizzle_bits: how many of the address take part
  char* data;
  uint64_t stride[4];
  uint32_t extent[5];
  uint16_t spanned[5], step[5];
};
static_assert(sizeof(TensorMapModel) <= sizeof(CUtensorMap), "a tensor map has 128 bytes");

inline CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                             const cuuint64_t* extent, const cuuint64_t* stride, const cuuint32_t* spanned,
                             const cuuint32_t* step, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                             CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  const bool known = (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16) &&
                     interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE &&
                     swizzle <= CU_TENSOR_MAP_SWIZZLE_128B;
  bool valid = known && rank >= 1 && rank <= 5 && reinterpret_cast<uintptr_t>(map) % 64 == 0 &&
               reinterpret_cast<uintptr_t>(data) % 16 == 0;
  TensorMapModel model{TensorMapModel::kMagic, static_cast<uint8_t>(rank), 2, static_cast<uint8_t>(swizzle),
                       static_cast<char*>(data), {}, {}, {}, {}};
  for (cuuint32_t i = 0; valid && i < rank; ++i) {
    valid &= extent[i] > 0 && extent[i] <= (uint64_t{1} << 32) - 1;
    valid &= spanned[i] > 0 && spanned[i] <= 256 && step[i] > 0 && step[i] <= 8;
    if (i > 0) valid &= stride[i - 1] % 16 == 0 && stride[i - 1] < uint64_t{1} << 40;
    model.extent[i] = static_cast<uint32_t>(extent[i]);
    model.spanned[i] = static_cast<uint16_t>(spanned[i]);
    model.step[i] = static_cast<uint16_t>(i ? step[i] : 1);  // the driver ignores that of dimension 0
    if (i > 0) model.stride[i - 1] = stride[i - 1];
  }
  const unsigned row = valid ? spanned[0] * model.element_bytes : 0;
  valid &= row % 16 == 0 && (model.swizzle_bits == 0 || row <= 16u << model.swizzle_bits);
  if (!valid) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(map, &model, sizeof model);
  return CUDA_SUCCESS;
}

// The device's address of a byte of dynamic shared memory, whose beginning is aligned to 16 bytes and no better:
// kernels that need more align by themselves.
constexpr uint32_t kDynamicSharedAddress = 1024 + 16;

inline uint32_t shared_address(const void* p) {
  return kDynamicSharedAddress + static_cast<uint32_t>(static_cast<const unsigned char*>(p) - block.dynamic_shared);
}
inline unsigned char* at_shared_address(uint32_t address) {
  return block.dynamic_shared + (static_cast<int64_t>(address) - kDynamicSharedAddress);
}

// Chunks of 16 bytes change places by the low bits of their row of 128 bytes.
inline uint32_t swizzled(uint32_t address, unsigned bits) { return address ^ (address >> 3 & ((1u << bits) - 1) << 4); }

inline void tensor_copy_box(void* shared, const CUtensorMap* map, uint64_t* barrier, std::array<int, 5> start,
                            unsigned coordinates, const Where& where) {
  const InExecutor guard;
  const auto refuse = [&](const char* why) { fail("cp.async.bulk.tensor at " + to_string(where) + why); };
  TensorMapModel model;
  std::memcpy(&model, map, sizeof model);
  if (model.magic != TensorMapModel::kMagic) refuse(": this is no encoded tensor map");
  if (model.rank != coordinates) refuse(": the tensor map has another number of dimensions");
  const uint32_t to = shared_address(shared);
  if (to % 128) refuse(": the destination is not aligned to 128 bytes");

  unsigned count[5] = {1, 1, 1, 1, 1};
  for (unsigned i = 0; i < model.rank; ++i) count[i] = (model.spanned[i] + model.step[i] - 1) / model.step[i];
  const unsigned row_bytes = count[0] * model.element_bytes;
  std::vector<AsyncCopy> pieces;
  unsigned at = 0;
  for (unsigned e = 0; e < count[4]; ++e) {
    for (unsigned d = 0; d < count[3]; ++d) {
      for (unsigned c = 0; c < count[2]; ++c) {
        for (unsigned b = 0; b < count[1]; ++b) {
          const unsigned index[5] = {0, b, c, d, e};
          bool inside = true;
          const char* from = model.data;
          for (unsigned i = 1; i < model.rank; ++i) {
            const int64_t coordinate = int64_t{start[i]} + index[i] * model.step[i];
            inside &= coordinate >= 0 && coordinate < int64_t{model.extent[i]};
            if (inside) from += coordinate * static_cast<int64_t>(model.stride[i - 1]);
          }
          for (unsigned byte = 0; byte < row_bytes; byte += 16, at += 16) {
            const int64_t first = int64_t{start[0]} + byte / model.element_bytes;
            const int64_t left = int64_t{model.extent[0]} - first;
            if (first % 8) refuse(": the innermost coordinate is modelled in steps of 16 bytes only");
            const int64_t valid = inside && first >= 0 ? std::clamp<int64_t>(left, 0, 8) : 0;
            pieces.push_back({at_shared_address(swizzled(to + at, model.swizzle_bits)),
                              valid ? from + first * model.element_bytes : from, 16,
                              static_cast<unsigned>(valid) * model.element_bytes});
          }
        }
      }
    }
  }
  for (const AsyncCopy& piece : pieces) {
    if (shared_bytes_from(piece.shared) < piece.bytes) refuse(" writes outside shared memory");
  }
  issue_bulk_copy(std::move(pieces), at, barrier, "cp.async.bulk.tensor", where);
}

inline void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int c0, int c1, CUDA_ON_HOST_WHERE) {
  tensor_copy_box(shared, map, barrier, {c0, c1}, 2, where);
}
inline void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int c0, int c1, int c2,
                        CUDA_ON_HOST_WHERE) {
  tensor_copy_box(shared, map, barrier, {c0, c1, c2}, 3, where);
}
inline void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int c0, int c1, int c2, int c3,
                        CUDA_ON_HOST_WHERE) {
  tensor_copy_box(shared, map, barrier, {c0, c1, c2, c3}, 4, where);
}

}  // namespace cuda_on_host
