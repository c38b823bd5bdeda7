// Matrix instructions of a warp, from sm_80: the host twins of csrc/cuda/ptx.cuh, which has the layouts.
// Products are exact and summed in float, one by one; hardware sums in an order and with guard bits of its own.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstring>

#include "collectives.h"
#include "shared_memory.h"

namespace cuda_on_host {

// Lane l brings the address of a row of 16 bytes, row l % 8 of matrix l / 8. Each lane then reads its elements itself, so
// that the race detector knows who read what.
template <bool kTransposed>
void load_matrices(uint32_t (&r)[4], const void* row, const Where& where) {
  constexpr int kPieces = kTransposed ? 8 : 4, kPieceBytes = kTransposed ? 2 : 4;
  struct Pieces {
    const char* at[kPieces];
  };
  const auto answer = [](auto&& all, unsigned l, unsigned) {
    Pieces pieces;
    for (unsigned i = 0; i < kPieces; ++i) {
      const unsigned matrix = kTransposed ? i / 2 : i;
      const unsigned from = kTransposed ? l % 4 * 2 + i % 2 : l / 4, column = kTransposed ? l / 4 : l % 4;
      pieces.at[i] = static_cast<const char*>(all(matrix * 8 + from)) + column * kPieceBytes;
    }
    return pieces;
  };
  {
    const InExecutor guard;
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix at " + to_string(where) + ": a row is not aligned to 16 bytes");
    if (shared_bytes_from(row) < 16) fail("ldmatrix at " + to_string(where) + ": a row is not in shared memory");
  }
  const Pieces pieces = warp_collective<const void*, Pieces>(~0u, row, answer, "ldmatrix", where);
  const InExecutor guard;
  for (int i = 0; i < kPieces; ++i) {
    races::access(pieces.at[i], kPieceBytes, races::Kind::Read, "ldmatrix", where);
    std::memcpy(reinterpret_cast<char*>(r) + i * kPieceBytes, pieces.at[i], kPieceBytes);
  }
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, CUDA_ON_HOST_WHERE) { load_matrices<false>(r, row, where); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, CUDA_ON_HOST_WHERE) {
  load_matrices<true>(r, row, where);
}

// d += A B for 16 x 8 results; dot(a, b) is the sum of the products of what two registers hold.
template <class Dot>
void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Dot&& dot, const Where& where) {
  struct Operands {
    uint32_t a[4], b[2];
    float d[4];
  };
  struct Result {
    float d[4];
  };
  const auto answer = [&](auto&& all, unsigned l, unsigned) {
    Result result;
    const unsigned row = l / 4 * 4, column = l % 4 * 8;  // the first of the four lanes that hold it
    std::memcpy(result.d, all(l).d, sizeof result.d);
    for (unsigned q = 0; q < 4; ++q) {
      const Operands of_row = all(row + q), of_column[2] = {all(column + q), all(column + 4 + q)};
      for (int i = 0; i < 4; ++i) {
        for (int half = 0; half < 2; ++half) result.d[i] += dot(of_row.a[i / 2 + half * 2], of_column[i % 2].b[half]);
      }
    }
    return result;
  };
  Operands operands;
  std::memcpy(operands.a, a, sizeof a);
  std::memcpy(operands.b, b, sizeof b);
  std::memcpy(operands.d, d, sizeof d);
  const Result result = warp_collective<Operands, Result>(~0u, operands, answer, "mma", where);
  std::memcpy(d, result.d, sizeof d);
}

template <class T>
float dot_of_pairs(uint32_t a, uint32_t b) {
  T x[2], y[2];
  std::memcpy(static_cast<void*>(x), &a, sizeof a);
  std::memcpy(static_cast<void*>(y), &b, sizeof b);
  return static_cast<float>(x[0]) * static_cast<float>(y[0]) + static_cast<float>(x[1]) * static_cast<float>(y[1]);
}

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_ON_HOST_WHERE) {
  multiply_matrices(d, a, b, dot_of_pairs<__nv_bfloat16>, where);
}
inline void mma_m16n8k16_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_ON_HOST_WHERE) {
  multiply_matrices(d, a, b, dot_of_pairs<__half>, where);
}

constexpr uint32_t kBelowTf32 = 0x1fff;  // the bits of a float that tf32 lacks

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_ON_HOST_WHERE) {
  const auto dot = [&](uint32_t x, uint32_t y) {
    if ((x | y) & kBelowTf32) fail("mma at " + to_string(where) + ": an operand is not rounded to tf32");
    return std::bit_cast<float>(x) * std::bit_cast<float>(y);
  };
  multiply_matrices(d, a, b, dot, where);
}

inline uint32_t to_tf32(float x) {
  if (x != x) return 0x7fffe000;
  return (std::bit_cast<uint32_t>(x) + (kBelowTf32 + 1) / 2) & ~kBelowTf32;
}

}  // namespace cuda_on_host
