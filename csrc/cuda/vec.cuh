// 16-byte vectors of float, bfloat16 or float16, read into and written from float registers; and the division of
// a vector index by a run-time size, which is what finding a channel costs in NCHW order.
//
// A kernel is instantiated for V = kVector<T> (16 bytes a thread and access, aligned) and V = 1 (anything else).
// The launcher picks: V divides the contiguous extent and every pointer is 16-byte aligned, else 1.
#pragma once

#include <cstring>
#include <type_traits>

#include "dtype.h"
#include "platform.cuh"

// A launch indexes its vectors in 32 bits; launchers split larger tensors by samples. Tests lower this.
#ifndef FASTGAN_MAX_VECTORS_PER_LAUNCH
#define FASTGAN_MAX_VECTORS_PER_LAUNCH (1u << 30)
#endif

namespace fastgan::cuda {

template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) { return x; }
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <>
__device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }

// V elements as they lie in memory. Held as words: as elements of 16 bits the compiler would take a vector apart and wait for
// it wherever two branches meet.
template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  using Word = std::conditional_t<sizeof(T) * V % 4 == 0, uint32_t, uint16_t>;
  Word words[sizeof(T) * V / sizeof(Word)];
};

// One access. What a thread needs of several vectors it loads first and converts afterwards, so that all are on their way
// at once: a conversion right behind its load would wait for memory once a vector.
template <int V, class T>
__device__ __forceinline__ Vector<T, V> load_vector(const T* p) {
  return *reinterpret_cast<const Vector<T, V>*>(p);
}

template <class T, int V>
__device__ __forceinline__ void to_floats(const Vector<T, V>& vector, float (&out)[V]) {
  T elements[V];
  std::memcpy(static_cast<void*>(elements), &vector, sizeof vector);
#pragma unroll
  for (int v = 0; v < V; ++v) out[v] = to_float(elements[v]);
}

// A bfloat16 is the upper half of a float: one instruction an element where pairs are taken apart as words, two otherwise.
template <int V, class = std::enable_if_t<V % 2 == 0>>
__device__ __forceinline__ void to_floats(const Vector<__nv_bfloat16, V>& vector, float (&out)[V]) {
#pragma unroll
  for (int v = 0; v < V; v += 2) {
    const uint32_t pair[2] = {vector.words[v / 2] << 16, vector.words[v / 2] & 0xffff0000u};
    std::memcpy(&out[v], pair, sizeof pair);
  }
}

template <class T, int V>
__device__ __forceinline__ void load(const T* p, float (&out)[V]) {
  to_floats(load_vector<V>(p), out);
}

template <class T, int V>
__device__ __forceinline__ void store(T* p, const float (&in)[V]) {
  T elements[V];
#pragma unroll
  for (int v = 0; v < V; ++v) elements[v] = from_float<T>(in[v]);
  Vector<T, V> vector;
  std::memcpy(&vector, elements, sizeof vector);
  *reinterpret_cast<Vector<T, V>*>(p) = vector;
}

// Element `i` of a small vector whose type is known only at run time (per-channel and per-sample parameters).
__device__ __forceinline__ float load_as_float(const void* p, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::BFloat16: return to_float(static_cast<const __nv_bfloat16*>(p)[i]);
    case DType::Float16: return to_float(static_cast<const __half*>(p)[i]);
    default: return static_cast<const float*>(p)[i];
  }
}

// n / divisor for n < 2^31 by one multiplication (Granlund and Montgomery, "Division by invariant integers using
// multiplication", PLDI 1994): with s = ceil(log2 d) and m = floor(2^32 (2^s - d) / d) + 1, n / d = (mulhi(n, m) + n) >> s.
struct Divider {
  uint32_t divisor, multiplier, shift;

  explicit Divider(uint32_t d) : divisor(d), multiplier(0), shift(0) {
    while (shift < 32 && (uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
  __device__ __forceinline__ uint32_t remainder(uint32_t n) const { return n - quotient(n) * divisor; }
};

// Vectors that a thread loads before it uses the first. With 16 bytes each and at least 768 threads on a multiprocessor that
// is 48 KiB in flight; 23 KiB fill an H200's memory bus (4.3 TB/s * 700 ns / 132).
constexpr int kLoadsInFlight = 4;

// Calls body(T{}) with the C++ type of `dtype`: the one place where a run-time type becomes a template argument.
template <class Body>
cudaError_t with_dtype(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::Float32: return body(float{});
    case DType::BFloat16: return body(__nv_bfloat16{});
    case DType::Float16: return body(__half{});
  }
  return cudaErrorInvalidValue;
}

template <int V>
struct VectorWidth {
  static constexpr int value = V;
};

// Calls body(VectorWidth<16 bytes of T>) where `vectorise` holds, else body(VectorWidth<1>).
template <class T, class Body>
cudaError_t with_vector_width(bool vectorise, Body&& body) {
  return vectorise ? body(VectorWidth<kVector<T>>{}) : body(VectorWidth<1>{});
}

}  // namespace fastgan::cuda
