// Shared memory: new for every block and filled with NaN, so that a value read before it was written shows; of exactly
// the bytes asked for, so that the address sanitizer sees an overrun.
#pragma once

#include <cstring>

#include "scheduler.h"

namespace cuda_on_host {

constexpr size_t kStaticSharedLimit = 48 << 10, kDynamicSharedLimit = 227 << 10;
constexpr size_t kDynamicSharedAlignment = 1024;  // as FASTGAN_DYNAMIC_SHARED asks

// Behind every array, where the race detector sees all accesses and reports those that land there.
constexpr size_t kRedZone =
#if defined(CUDA_ON_HOST_RACES)
    64;
#else
    0;
#endif

inline void add_shared_array(void* data, size_t bytes) {
  std::memset(data, 0xFF, bytes);
  block.shared.emplace_back(static_cast<char*>(data), bytes);
  races::new_memory(data, bytes);
}

// How many bytes of the shared array that holds `p` follow from there; 0 where none does.
inline size_t shared_bytes_from(const void* p) {
  for (const auto& [data, bytes] : block.shared) {
    if (p >= data && p < data + bytes) return static_cast<size_t>(data + bytes - static_cast<const char*>(p));
  }
  return 0;
}

// A declaration of a shared array; every block has its own.
template <class T, size_t Count>
class SharedArray {
 public:
  constexpr SharedArray() = default;
  T* enter(const Where& where = Where::current()) {
    const InExecutor guard;
    const auto found = block.static_arrays.find(this);
    if (found != block.static_arrays.end()) return static_cast<T*>(found->second.get());
    block.static_shared += Count * sizeof(T);
    if (block.static_shared > kStaticSharedLimit) {
      fail("more than 48 KiB of static shared memory at " + to_string(where));
    }
    void* data = std::malloc(Count * sizeof(T) + kRedZone);
    block.static_arrays.emplace(this, std::unique_ptr<void, void (*)(void*)>(data, std::free));
    add_shared_array(data, Count * sizeof(T));
    return static_cast<T*>(data);
  }
};

}  // namespace cuda_on_host

#define CUDA_ON_HOST_SHARED(T, name, count)                                     \
  static constinit ::cuda_on_host::SharedArray<T, (count)> name##_of_the_block; \
  T* const name = name##_of_the_block.enter()
#define CUDA_ON_HOST_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(::cuda_on_host::block.dynamic_shared)
