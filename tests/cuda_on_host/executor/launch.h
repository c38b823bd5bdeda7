// kernel<<<grid, threads, dynamic_shared>>>(arguments...): blocks one after the other, those of a cooperative launch together.
#pragma once

#include <tuple>

#include "shared_memory.h"

namespace cuda_on_host {

using Memory = std::unique_ptr<void, void (*)(void*)>;

inline void check_launch(dim3 extent, dim3 threads, size_t parameter_bytes, size_t dynamic_shared) {
  const uint64_t size = uint64_t{threads.x} * threads.y * threads.z, blocks = uint64_t{extent.x} * extent.y * extent.z;
  if (size == 0 || size > 1024 || threads.z > 64 || blocks == 0 || extent.x > 0x7fffffffu || extent.y > 65535 ||
      extent.z > 65535) {
    throw std::runtime_error("cuda_on_host: invalid launch: " + std::to_string(blocks) + " blocks of " +
                             std::to_string(size) + " threads");
  }
  if (parameter_bytes > 4096) throw std::runtime_error("cuda_on_host: kernel parameters over 4 KiB");
  if (dynamic_shared > kDynamicSharedLimit) throw std::runtime_error("cuda_on_host: too much dynamic shared memory");
}

// Makes the running block number `number` of `extent`, with memory of its own.
inline Memory begin_block(uint64_t number, dim3 extent, size_t dynamic_shared) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kDynamicSharedAlignment, dynamic_shared + kRedZone)) throw std::bad_alloc();
  block.index = {static_cast<unsigned>(number % extent.x), static_cast<unsigned>(number / extent.x % extent.y),
                 static_cast<unsigned>(number / extent.x / extent.y)};
  block.grid_extent = extent;
  block.dynamic_shared = static_cast<unsigned char*>(memory);
  block.shared.clear();
  block.static_arrays.clear();
  block.static_shared = 0;
  start_block();
  if (dynamic_shared) add_shared_array(memory, dynamic_shared);
  return {memory, std::free};
}

// Finished on return. Throws std::runtime_error on a launch the device would refuse, a deadlock, a misused collective
// or, where the race detector is built in, a race.
template <bool kCooperative = false, class... P, class... A>
void launch(void (*kernel)(P...), dim3 extent, dim3 threads, size_t dynamic_shared, A&&... arguments) {
  std::tuple<std::decay_t<P>...> values(static_cast<P>(std::forward<A>(arguments))...);
  auto call = [&] { std::apply(kernel, values); };
  using Call = decltype(call);
  check_launch(extent, threads, (sizeof(std::decay_t<P>) + ... + 0), dynamic_shared);
  const uint64_t blocks = uint64_t{extent.x} * extent.y * extent.z, together = kCooperative ? blocks : 1;
  grid = Grid{};
  grid.waiting.resize(together);
  grid.cooperative = kCooperative;
  grid.threads = together * threads.x * threads.y * threads.z;
  races::begin_launch();
  for (uint64_t first = 0; first < blocks; first += together) {
    std::vector<Memory> memory;
    uint64_t i = first;
    for_blocks([&] {
      prepare_threads(threads);
      block.body = [](void* body) { (*static_cast<Call*>(body))(); };
      block.body_argument = &call;
      block.parameters = {&values, sizeof values};
      const uint64_t number = options.order == Order::Reverse ? blocks - 1 - i : i;
      memory.push_back(begin_block(number, extent, dynamic_shared));
      ++i;
    });
    enter_block(0);
    run_blocks();
  }
  if (kCooperative) {
    for_blocks([] { if (grid.running > 0) drop_threads(); });
    enter_block(0);
  }
}

// Blocks that may wait for each other at grid_sync(), which all of them must reach.
template <class... P, class... A>
cudaError_t launch_cooperative(void (*kernel)(P...), dim3 extent, dim3 threads, size_t dynamic_shared, A&&... arguments) {
  if (uint64_t{extent.x} * extent.y * extent.z > options.resident_blocks) return cudaErrorCooperativeLaunchTooLarge;
  launch<true>(kernel, extent, threads, dynamic_shared, std::forward<A>(arguments)...);
  return cudaSuccess;
}

}  // namespace cuda_on_host
