// Runs CUDA kernels on the CPU: one fiber per CUDA thread, so that barriers, shuffles and atomics mean what they mean
// on the device. Blocks run one after the other, each thread until it has to wait for another one; Options::order chooses
// who runs first. For tests of correctness alone: README.md says what it finds and what it cannot see.
//
// Layout: options and bookkeeping · fibers · scheduler · collectives · shared memory · launch · CUDA's own names
#pragma once
#if defined(__CUDACC__)
#error "cuda_on_host.h is for host compilers; nvcc has the real thing"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// The toolkit's headers define these for the device compiler; to a host compiler a kernel is a function.
#undef __global__
#undef __device__
#undef __host__
#undef __launch_bounds__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline

namespace cuda_on_host {

// ---------------------------------------------------------------- options and bookkeeping

using Where = std::source_location;

enum class Order : int { Forward = 0, Reverse = 1, Random = 2 };

struct Options {
  Order order = Order::Forward;  // of the threads of a block, warps kept together, and of the blocks
  uint64_t seed = 1;             // of Order::Random
};
inline Options options;

constexpr unsigned kWarpSize = 32;
constexpr size_t kStackBytes =
#if defined(__SANITIZE_ADDRESS__)
    256 << 10;
#else
    64 << 10;
#endif
constexpr size_t kGuardBytes = 4096;
constexpr size_t kStaticSharedLimit = 48 << 10, kDynamicSharedLimit = 227 << 10;

inline std::string to_string(const Where& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

// ---------------------------------------------------------------- fibers

struct Thread {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  char* stack = nullptr;  // above the guard page
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // of the address sanitizer

  uint3 index{};
  unsigned linear = 0, position = 0;  // within the block; position in the running order
  bool done = true;
  const unsigned* generation = nullptr;  // waits until *generation differs from seen
  unsigned seen = 0;
  const char* what = "";
  Where where;

  unsigned lane() const { return linear % kWarpSize; }
  unsigned warp() const { return linear / kWarpSize; }
  bool runnable() const { return !done && (!generation || *generation != seen); }
};

inline Thread* self = nullptr;  // the running thread; outside kernels, the host's
inline Thread host;

#if defined(__x86_64__)
// Saves the callee-saved registers on this stack, stores its pointer, and continues on the other stack.
__attribute__((naked, noinline)) inline void switch_stacks(void** /*save, rdi*/, void* /*resume, rsi*/) {
  asm volatile(
      "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n\t"
      "movq %rsp, (%rdi); movq %rsi, %rsp\n\t"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}
#endif

inline void switch_to(Thread* next) {
  Thread* previous = self;
  self = next;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&previous->fake_stack, next->stack, next->stack_bytes);
#endif
#if defined(__x86_64__)
  switch_stacks(&previous->stack_pointer, next->stack_pointer);
#else
  swapcontext(&previous->context, &next->context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(previous->fake_stack, nullptr, nullptr);
#endif
}

// ---------------------------------------------------------------- scheduler

struct Barrier {
  unsigned generation = 0, arrived = 0;
};

// A warp's meeting point: lanes of `mask` bring a value each, the last one to come answers for all. Two buffers, because
// a fast lane may bring its next value while a slow one has not yet taken its last answer.
struct Meeting {
  unsigned mask = 0, arrived = 0, generation = 0;
  Where where;
  alignas(16) unsigned char in[2][kWarpSize][16], out[2][kWarpSize][16];
};

struct Warp {
  Meeting meetings[4];
  unsigned first = 0, size = 0;  // positions [first, first + size) of the running order
};

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<unsigned> order;  // position -> linear thread index
  std::vector<Warp> warps;
  Barrier barrier;
  unsigned size = 0, alive = 0;
  uint3 index{};
  dim3 thread_extent, grid_extent;
  uint64_t serial = 0;  // counts blocks run, to know fresh shared memory
  size_t static_shared = 0;
  unsigned char* dynamic_shared = nullptr;
  void (*body)(void*) = nullptr;
  void* body_argument = nullptr;
  std::string error;
};
inline Block block;

inline Thread* next_runnable(const Thread& from) {
  const auto search = [&](unsigned first, unsigned size) -> Thread* {
    for (unsigned i = 1; i <= size; ++i) {
      Thread* t = block.threads[block.order[first + (from.position - first + i) % size]].get();
      if (t->runnable()) return t;
    }
    return nullptr;
  };
  const Warp& warp = block.warps[from.warp()];  // a warp runs on until it waits for another warp
  Thread* t = search(warp.first, warp.size);
  return t ? t : search(0, block.size);
}

inline void describe_deadlock() {
  std::string text = "deadlock: a barrier or warp collective that not all its threads reach, in block (" +
                     std::to_string(block.index.x) + ", " + std::to_string(block.index.y) + ", " +
                     std::to_string(block.index.z) + ")";
  const Thread* shown = nullptr;
  unsigned lines = 0;
  for (unsigned i = 0; i < block.size && lines < 8; ++i) {
    const Thread& t = *block.threads[i];
    if (t.done || (shown && shown->what == t.what && shown->where.line() == t.where.line())) continue;
    shown = &t;
    ++lines;
    text += "\n  from thread " + std::to_string(i) + ": waits in " + t.what + " at " + to_string(t.where);
  }
  block.error = text + "\n  " + std::to_string(block.size - block.alive) + " threads have finished";
}

// Ends the launch with an error from inside a kernel.
[[noreturn]] inline void fail(const std::string& message) {
  if (block.error.empty()) block.error = message;
  switch_to(&host);
  std::abort();
}

inline void wait_for_change(const unsigned* generation, const char* what, const Where& where) {
  Thread* me = self;
  me->generation = generation;
  me->seen = *generation;
  me->what = what;
  me->where = where;
  Thread* next = next_runnable(*me);
  if (!next) {
    describe_deadlock();
    next = &host;
  }
  if (next != me) switch_to(next);
  me->generation = nullptr;
}

inline void pass_barrier_if_complete(Barrier& b) {
  if (b.arrived > 0 && b.arrived == block.alive) {
    b.arrived = 0;
    ++b.generation;
  }
}

__attribute__((no_sanitize("address"))) inline void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {  // once a block
    block.body(block.body_argument);
    self->done = true;
    --block.alive;
    pass_barrier_if_complete(block.barrier);  // threads that have exited are not waited for
    Thread* next = next_runnable(*self);
    if (!next) {
      if (block.alive > 0) describe_deadlock();
      next = &host;
    }
    switch_to(next);
  }
}

inline std::unique_ptr<Thread> make_thread() {
  auto t = std::make_unique<Thread>();
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  t->stack = static_cast<char*>(memory) + kGuardBytes;
  t->stack_bytes = kStackBytes;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(t->stack + kStackBytes);
  *--top = nullptr;  // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(&thread_main);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  t->stack_pointer = top;
#else
  getcontext(&t->context);
  t->context.uc_stack.ss_sp = t->stack;
  t->context.uc_stack.ss_size = kStackBytes;
  t->context.uc_link = nullptr;
  makecontext(&t->context, &thread_main, 0);
#endif
  return t;
}

inline void drop_threads() {
  for (auto& t : block.threads) munmap(t->stack - kGuardBytes, kGuardBytes + kStackBytes);
  block.threads.clear();
}

// Threads, their indices and their running order: lanes of a warp stay neighbours in every order.
inline void prepare_threads(dim3 extent) {
  const unsigned size = extent.x * extent.y * extent.z, warps = (size + kWarpSize - 1) / kWarpSize;
  while (block.threads.size() < size) block.threads.push_back(make_thread());
  block.size = size;
  std::vector<unsigned> warp_order(warps);
  for (unsigned w = 0; w < warps; ++w) warp_order[w] = w;
  std::mt19937_64 random(options.seed);
  if (options.order == Order::Reverse) std::reverse(warp_order.begin(), warp_order.end());
  if (options.order == Order::Random) std::shuffle(warp_order.begin(), warp_order.end(), random);
  block.warps.assign(warps, Warp{});
  block.order.clear();
  for (unsigned w : warp_order) {
    Warp& warp = block.warps[w];
    warp.first = static_cast<unsigned>(block.order.size());
    warp.size = std::min(kWarpSize, size - w * kWarpSize);
    for (unsigned lane = 0; lane < warp.size; ++lane) block.order.push_back(w * kWarpSize + lane);
    const auto lanes = block.order.end() - warp.size;
    if (options.order == Order::Reverse) std::reverse(lanes, block.order.end());
    if (options.order == Order::Random) std::shuffle(lanes, block.order.end(), random);
  }
  for (unsigned p = 0; p < size; ++p) {
    Thread& t = *block.threads[block.order[p]];
    t.position = p;
    t.linear = block.order[p];
    t.index = {t.linear % extent.x, t.linear / extent.x % extent.y, t.linear / extent.x / extent.y};
  }
}

inline void run_block() {
  block.alive = block.size;
  block.barrier = Barrier{};
  block.static_shared = 0;
  ++block.serial;
  for (unsigned i = 0; i < block.size; ++i) {
    Thread& t = *block.threads[i];
    t.done = false;
    t.generation = nullptr;
    t.what = "its start";
  }
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &host.stack_bytes);
  pthread_attr_destroy(&attributes);
  host.stack = static_cast<char*>(stack);
#endif
  self = &host;
  switch_to(block.threads[block.order[0]].get());
  if (!block.error.empty()) {
    std::string error;
    error.swap(block.error);
    drop_threads();  // their stacks are in the middle of the kernel
    throw std::runtime_error("cuda_on_host: " + error);
  }
}

// ---------------------------------------------------------------- collectives

inline void block_barrier(const Where& where) {
  Barrier& b = block.barrier;
  const unsigned generation = b.generation;
  ++b.arrived;
  pass_barrier_if_complete(b);
  if (b.generation == generation) wait_for_change(&b.generation, "__syncthreads", where);
}

// Every lane of `mask` brings `in`; answer(all, lane) is what lane `lane` takes home.
template <class In, class Out, class Answer>
Out warp_collective(unsigned mask, const In& in, Answer&& answer, const char* what, const Where& where) {
  static_assert(sizeof(In) <= 16 && sizeof(Out) <= 16 && std::is_trivially_copyable_v<In>);
  Warp& warp = block.warps[self->warp()];
  if (warp.size < kWarpSize) mask &= (1u << warp.size) - 1;
  const unsigned lane = self->lane();
  if (!(mask >> lane & 1)) fail(std::string("a lane calls ") + what + " without being in its mask, at " + to_string(where));
  Meeting* meeting = nullptr;
  for (Meeting& m : warp.meetings) {
    if (m.mask == mask && (m.arrived || !meeting)) meeting = &m;
  }
  for (Meeting& m : warp.meetings) {
    if (!meeting && !m.arrived) (meeting = &m)->mask = mask;
  }
  if (!meeting) fail(std::string("more than four masks at once in ") + what + " at " + to_string(where));
  if (meeting->arrived == 0) {
    meeting->where = where;
  } else if (meeting->where.line() != where.line() || std::strcmp(meeting->where.file_name(), where.file_name())) {
    fail("lanes of a warp meet in different collectives: " + to_string(meeting->where) + " and " + to_string(where));
  }
  const unsigned buffer = meeting->generation & 1;
  std::memcpy(meeting->in[buffer][lane], &in, sizeof in);
  meeting->arrived |= 1u << lane;
  if (meeting->arrived == mask) {
    const auto all = [&](unsigned l) {
      In value;
      std::memcpy(&value, meeting->in[buffer][l], sizeof value);
      return value;
    };
    for (unsigned l = 0; l < kWarpSize; ++l) {
      if (mask >> l & 1) {
        const Out out = answer(all, l, mask);
        std::memcpy(meeting->out[buffer][l], &out, sizeof out);
      }
    }
    meeting->arrived = 0;
    ++meeting->generation;
  } else {
    wait_for_change(&meeting->generation, what, where);
  }
  Out out;
  std::memcpy(&out, meeting->out[buffer][lane], sizeof out);
  return out;
}

// Lane l takes the value of lane source(l), its own where that lane does not take part.
template <class T, class Source>
T shuffle(unsigned mask, T value, Source&& source, const char* what, const Where& where) {
  const auto answer = [&](auto&& all, unsigned l, unsigned present) {
    const unsigned from = source(l);
    return all(from < kWarpSize && (present >> from & 1) ? from : l);
  };
  return warp_collective<T, T>(mask, value, answer, what, where);
}

// ---------------------------------------------------------------- shared memory

// A static shared array. Its memory is new for every block and filled with NaN, so that a value read before it was
// written shows; it has exactly the bytes asked for, so that the address sanitizer sees an overrun.
template <class T, size_t Count>
class SharedArray {
 public:
  SharedArray() : data_(static_cast<T*>(std::malloc(Count * sizeof(T)))) {}
  T* enter(const Where& where = Where::current()) {
    if (serial_ != block.serial) {
      serial_ = block.serial;
      block.static_shared += Count * sizeof(T);
      if (block.static_shared > kStaticSharedLimit) fail("more than 48 KiB of static shared memory at " + to_string(where));
      std::memset(static_cast<void*>(data_), 0xFF, Count * sizeof(T));
    }
    return data_;
  }

 private:
  T* data_;
  uint64_t serial_ = 0;
};

}  // namespace cuda_on_host

#define CUDA_ON_HOST_SHARED(T, name, count)                          \
  static ::cuda_on_host::SharedArray<T, (count)> name##_of_the_block; \
  T* const name = name##_of_the_block.enter()
#define CUDA_ON_HOST_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(::cuda_on_host::block.dynamic_shared)

namespace cuda_on_host {

// ---------------------------------------------------------------- launch

// kernel<<<grid, threads, dynamic_shared>>>(arguments...), finished on return. Throws std::runtime_error on a launch the
// device would refuse, a deadlock or a misused collective.
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
  if ((sizeof(std::decay_t<P>) + ... + 0) > 4096) throw std::runtime_error("cuda_on_host: kernel parameters over 4 KiB");
  if (dynamic_shared > kDynamicSharedLimit) throw std::runtime_error("cuda_on_host: too much dynamic shared memory");
  const std::unique_ptr<void, void (*)(void*)> shared(std::malloc(dynamic_shared), std::free);
  block.body = [](void* body) { (*static_cast<Call*>(body))(); };
  block.body_argument = &call;
  block.thread_extent = threads;
  block.grid_extent = grid;
  block.dynamic_shared = static_cast<unsigned char*>(shared.get());
  prepare_threads(threads);
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t b = options.order == Order::Reverse ? blocks - 1 - i : i;
    block.index = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                   static_cast<unsigned>(b / grid.x / grid.y)};
    if (dynamic_shared) std::memset(shared.get(), 0xFF, dynamic_shared);
    run_block();
  }
}

template <class T, class F>
T read_modify_write(T* p, F&& f) {  // threads switch at waits only, so this is atomic
  const T old = *p;
  *p = f(old);
  return old;
}

}  // namespace cuda_on_host

// ---------------------------------------------------------------- CUDA's own names

#define threadIdx (::cuda_on_host::self->index)
#define blockIdx (::cuda_on_host::block.index)
#define blockDim (::cuda_on_host::block.thread_extent)
#define gridDim (::cuda_on_host::block.grid_extent)

#define CUDA_ON_HOST_WHERE ::cuda_on_host::Where where = ::cuda_on_host::Where::current()

inline void __syncthreads(CUDA_ON_HOST_WHERE) { cuda_on_host::block_barrier(where); }
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_HOST_WHERE) {
  cuda_on_host::warp_collective<int, int>(mask, 0, [](auto&&, unsigned, unsigned) { return 0; }, "__syncwarp", where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_HOST_WHERE) {
  const auto source = [=](unsigned l) { return l % width + delta < unsigned(width) ? l + delta : l; };
  return cuda_on_host::shuffle(mask, value, source, "__shfl_down_sync", where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_HOST_WHERE) {
  const auto source = [=](unsigned l) { return l % width >= delta ? l - delta : l; };
  return cuda_on_host::shuffle(mask, value, source, "__shfl_up_sync", where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, CUDA_ON_HOST_WHERE) {
  const auto source = [=](unsigned l) { return (l ^ lanes) / width <= l / width ? l ^ lanes : l; };
  return cuda_on_host::shuffle(mask, value, source, "__shfl_xor_sync", where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_HOST_WHERE) {
  struct Request {
    T value;
    int source;
  };
  const auto answer = [=](auto&& all, unsigned l, unsigned present) {
    const unsigned from = l / width * width + unsigned(all(l).source) % width;
    return all(present >> from & 1 ? from : l).value;
  };
  return cuda_on_host::warp_collective<Request, T>(mask, Request{value, source}, answer, "__shfl_sync", where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_HOST_WHERE) {
  const auto answer = [](auto&& all, unsigned, unsigned present) {
    unsigned bits = 0;
    for (unsigned l = 0; l < 32; ++l) {
      if ((present >> l & 1) && all(l)) bits |= 1u << l;
    }
    return bits;
  };
  return cuda_on_host::warp_collective<int, unsigned>(mask, predicate, answer, "__ballot_sync", where);
}

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return cuda_on_host::read_modify_write(p, [=](T old) { return T(old + value); });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return cuda_on_host::read_modify_write(p, [=](T old) { return std::max(old, value); });
}

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
