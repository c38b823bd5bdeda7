// One operand of wgmma in shared memory: a tile of kRows rows of A (or columns of B) by kDepth values of the summed
// index, filled by tensor copies of one box each and named by descriptors. The layouts are those of ptx_sm90a.cuh.
//
//   K-major    boxes of kRows rows of S bytes, side by side along k      box = (S / 2 of k, kRows)
//   MN-major   boxes of kDepth rows of S bytes, side by side along i     box = (S / 2 of i, kDepth)
#pragma once

#include "ptx_sm90a.cuh"

namespace fastgan::cuda {

template <Major kMajor, int kRows, int kDepth, int S = 128>
struct WgmmaTile {
  static_assert(S == 16 || S == 32 || S == 64 || S == 128, "S is 16 (no swizzle), 32, 64 or 128 bytes");
  static_assert(kRows % 64 == 0 && kDepth % 64 == 0, "whole boxes of every S");

  static constexpr int kBoxWidth = S / 2;                                // elements along the contiguous index
  static constexpr int kBoxHeight = kMajor == Major::K ? kRows : kDepth;
  static constexpr int kBoxes = (kMajor == Major::K ? kDepth : kRows) / kBoxWidth;
  static constexpr int kBoxBytes = kBoxHeight * S;
  static constexpr int kBytes = kBoxes * kBoxBytes;
  // The swizzle's pattern repeats every 8 rows of S bytes, and begins where the tile does.
  static constexpr int kAlignment = 1024;

  static constexpr uint32_t kMode = S == 128 ? 1 : S == 64 ? 2 : S == 32 ? 3 : 0;
  static constexpr uint32_t kGroup = 8 * S;  // 8 rows of a box
  // From box to box the offset is LBO and from group to group SBO; an MN-major operand without a swizzle has it the
  // other way round, and in a swizzled K-major one, which never leaves its box, LBO is to be 16.
  static constexpr bool kPlain = S == 16, kK = kMajor == Major::K;
  static constexpr uint32_t kLeading = kK && !kPlain ? 16 : !kK && kPlain ? kGroup : kBoxBytes;
  static constexpr uint32_t kStride = !kK && kPlain ? kBoxBytes : kGroup;

  // The descriptor of rows `row`.. (a multiple of 64) and values 16 `step`.. of the tile at this shared address.
  __device__ __forceinline__ static uint64_t descriptor(uint32_t tile, int row, int step) {
    uint32_t start;
    if constexpr (kMajor == Major::K) {
      const int byte = step * 32;
      start = tile + byte / S * kBoxBytes + byte % S + row * S;
    } else {
      start = tile + row / kBoxWidth * kBoxBytes + step * 16 * S;
    }
    constexpr uint64_t kFixed =
        uint64_t{kLeading / 16} << 16 | uint64_t{kStride / 16} << 32 | uint64_t{kMode} << 62;
    return kFixed | (start & 0x3FFFF) >> 4;
  }
};

}  // namespace fastgan::cuda
