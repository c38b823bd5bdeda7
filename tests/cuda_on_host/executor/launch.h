// kernel<<<grid, threads, dynamic_shared>>>(arguments...), blocks one after the other.
#pragma once

#include <tuple>

#include "shared_memory.h"

namespace cuda_on_host {

// Finished on return. Throws std::runtime_error on a launch the device would refuse, a deadlock, a misused collective
// or, where the race detector is built in, a race.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 threads, size_t dynamic_shared, A&&... arguments) {
  std::tuple<std::decay_t<P>...> values(static_cast<P>(std::forward<A>(arguments))...);
  auto call = [&] { std::apply(kernel, values); };
  using Call = decltype(call);
  const uint64_t size = uint64_t{threads.x} * threads.y * threads.z, blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (size == 0 || size > 1024 || threads.z > 64 || blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535) {
    throw std::runtime_error("cuda_on_host: invalid launch: " + std::to_string(blocks) + " blocks of " +
                             std::to_string(size) + " threads");
  }
  if ((sizeof(std::decay_t<P>) + ... + 0) > 4096) {
    throw std::runtime_error("cuda_on_host: kernel parameters over 4 KiB");
  }
  if (dynamic_shared > kDynamicSharedLimit) throw std::runtime_error("cuda_on_host: too much dynamic shared memory");
  void* memory = nullptr;
  if (posix_memalign(&memory, kDynamicSharedAlignment, dynamic_shared + kRedZone)) throw std::bad_alloc();
  const std::unique_ptr<void, void (*)(void*)> shared(memory, std::free);
  block.body = [](void* body) { (*static_cast<Call*>(body))(); };
  block.body_argument = &call;
  block.parameters = {&values, sizeof values};
  block.thread_extent = threads;
  block.grid_extent = grid;
  block.dynamic_shared = static_cast<unsigned char*>(shared.get());
  prepare_threads(threads);
  races::begin_launch();
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t b = options.order == Order::Reverse ? blocks - 1 - i : i;
    block.index = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                   static_cast<unsigned>(b / grid.x / grid.y)};
    block.shared.clear();
    block.static_shared = 0;
    if (dynamic_shared) add_shared_array(shared.get(), dynamic_shared);
    run_block();
  }
}

}  // namespace cuda_on_host
