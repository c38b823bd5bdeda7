// One block: its threads and their order, its barrier and shared memory, and who runs next. A thread runs until it
// waits; a launch that cannot go on, or a kernel that breaks a rule, ends with an error.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <list>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>

#include "races.h"

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#endif

namespace cuda_on_host {

enum class Order : int { Forward = 0, Reverse = 1, Random = 2 };
enum class Landing : int { Late = 0, Eager = 1 };

struct Options {
  Order order = Order::Forward;      // of the threads of a block, warps kept together, and of the blocks
  uint64_t seed = 1;                 // of Order::Random
  Landing landing = Landing::Late;   // of asynchronous copies: at issue, or at the last moment a wait allows
  unsigned resident_blocks = 32;     // of a cooperative launch, at most
};
inline Options options;

struct Barrier {
  unsigned generation = 0, arrived = 0;
};

// A warp's meeting point: lanes of `mask` bring a value each, the last one to come answers for all. Two buffers,
// because a fast lane may bring its next value while a slow one has not yet taken its last answer.
constexpr size_t kMeetingIn = 48, kMeetingOut = 64;
struct Meeting {
  unsigned mask = 0, arrived = 0, generation = 0;
  Where where;
  alignas(16) unsigned char in[2][kWarpSize][kMeetingIn], out[2][kWarpSize][kMeetingOut];
};

struct Warp {
  Meeting meetings[4];
  unsigned first = 0, size = 0;  // positions [first, first + size) of the running order
};

// async_copy.h has what these two do.
struct Mbarrier {
  unsigned expected, pending;  // arrivals of a phase, and those missing
  int64_t bytes = 0;           // of asynchronous copies that the phase waits for
  unsigned generation = 0;     // phases completed
  Where where;                 // of its initialisation
  unsigned arrivals, completed;  // points of the race detector: of the current phase, and of the last one completed
};

struct BulkCopy {
  std::vector<AsyncCopy> pieces;
  unsigned bytes;  // of all of them
  Mbarrier* barrier;
  unsigned operation;
  Where where;
};

// wgmma.h has what is done with these four.
struct Operand {
  uint64_t descriptor;
  bool mn_major;
};

struct Accumulator {  // of one thread; while wgmma are in flight its registers hold a signalling NaN
  float* registers;
  std::vector<float> values;
  unsigned in_flight = 0;
};

struct Wgmma {  // a warp's share of one
  Operand a, b;
  bool accumulate;
  float (*element)(const void*);
  Accumulator* accumulators[kWarpSize];
  unsigned operation;
  Where where;
};

struct WarpWgmmas {
  std::deque<std::vector<Wgmma>> groups;  // not yet waited for; the last one is still open where group_open
  bool group_open = false, fenced = false;
  std::list<Accumulator> in_flight[kWarpSize];
  unsigned issued = 0;
};

struct WgmmaIssue {  // what the first warp of four issued, for the others to agree with
  uint64_t a, b;
  bool accumulate;
  size_t registers;
  Where where;
};

struct NamedBarrier {
  unsigned generation = 0, arrived = 0, threads = 0;
  unsigned arrivals = 0, completed = 0;  // points of the race detector
};

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<unsigned> order;  // position -> linear thread index
  std::vector<Warp> warps;
  Barrier barrier;
  std::map<const void*, Mbarrier> mbarriers;
  std::deque<BulkCopy> bulk_copies;  // issued and not yet landed
  std::map<int, NamedBarrier> named_barriers;
  std::vector<WarpWgmmas> wgmmas;                   // by warp
  std::map<unsigned, std::vector<WgmmaIssue>> wgmma_issues;  // by warpgroup
  unsigned size = 0, alive = 0;
  uint3 index{};
  dim3 thread_extent, grid_extent;
  std::vector<std::pair<char*, size_t>> shared;  // the block's arrays
  std::map<const void*, std::unique_ptr<void, void (*)(void*)>> static_arrays;  // by declaration
  size_t static_shared = 0;
  unsigned char* dynamic_shared = nullptr;
  void (*body)(void*) = nullptr;
  void* body_argument = nullptr;
  std::pair<const void*, size_t> parameters;  // of the kernel
  std::string error;

  uint64_t linear_index() const { return (uint64_t{index.z} * grid_extent.y + index.y) * grid_extent.x + index.x; }
  std::string name() const {
    return "block (" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
  }
};
inline Block block;  // the running one

// The blocks of a launch that run at the same time: all of a cooperative launch, else one.
struct Grid {
  std::deque<Block> waiting;  // by number; the running one's place is empty
  unsigned running = 0;
  bool cooperative = false;
  uint64_t threads = 0, arrived = 0;  // at the grid's barrier
  unsigned generation = 0;
};
inline Grid grid;

inline void enter_block(unsigned number) {
  if (number == grid.running) return;
  const unsigned left = grid.running;
  std::swap(block, grid.waiting[left]);
  std::swap(block, grid.waiting[number]);
  grid.running = number;
  races::enter_block(left);
}

// Calls body() inside each of the blocks that run at the same time, in their order.
template <class Body>
void for_blocks(Body&& body) {
  for (unsigned number = 0; number < grid.waiting.size(); ++number) {
    enter_block(number);
    body();
  }
}

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
  std::string text = "deadlock: a wait that never ends, as not all that it waits for comes, in " + block.name();
  const Thread* shown = nullptr;
  unsigned lines = 0;
  for (unsigned i = 0; i < block.size && lines < 8; ++i) {
    const Thread& t = *block.threads[i];
    if (t.done || (shown && shown->what == t.what && shown->where.line() == t.where.line())) continue;
    shown = &t;
    ++lines;
    text += "\n  from thread " + std::to_string(i) + ": waits in " + t.what + " at " + to_string(t.where);
  }
  std::set<std::string> barriers;  // of an array of them, those in the same state are one line
  for (const auto& [address, m] : block.mbarriers) {
    barriers.insert("\n  mbarrier of " + to_string(m.where) + ": phase " + std::to_string(m.generation) + " lacks " +
                    std::to_string(m.pending) + " arrivals and " + std::to_string(m.bytes) + " bytes");
  }
  for (const std::string& line : barriers) text += line;
  block.error = text + "\n  " + std::to_string(block.size - block.alive) + " threads have finished";
}

// Ends the launch with an error from inside a kernel.
[[noreturn]] inline void fail(const std::string& message) {
  if (block.error.empty()) block.error = message;
  switch_to(&host);
  std::abort();
}

bool land_oldest_bulk_copy();  // false where none is on its way
std::string unfinished_wgmma();  // what is wrong with those of a block that has finished; empty where nothing is

// Who runs after `from`. A bulk copy lands late when nobody of its block can go on without it, a block runs on until it waits
// for another one; the host takes over at the end.
inline Thread* choose_next(const Thread& from) {
  const Thread* last = &from;
  for (size_t tried = 0; tried < grid.waiting.size(); ++tried) {
    do {
      if (Thread* next = next_runnable(*last)) return next;
    } while (block.alive > 0 && land_oldest_bulk_copy());
    enter_block((grid.running + 1) % static_cast<unsigned>(grid.waiting.size()));
    last = block.threads[block.order.back()].get();
  }
  const auto unfinished = [] { return block.alive > 0; };
  for (size_t tried = 0; tried < grid.waiting.size() && !unfinished(); ++tried) {
    enter_block((grid.running + 1) % static_cast<unsigned>(grid.waiting.size()));
  }
  if (unfinished()) describe_deadlock();
  return &host;
}

inline void wait_for_change(const unsigned* generation, const char* what, const Where& where) {
  Thread* me = self;
  me->generation = generation;
  me->seen = *generation;
  me->what = what;
  me->where = where;
  Thread* next = choose_next(*me);
  if (next != me) switch_to(next);
  me->generation = nullptr;
}

inline void pass_barrier_if_complete(Barrier& b) {
  if (b.arrived > 0 && b.arrived == block.alive) {
    b.arrived = 0;
    ++b.generation;
    races::meet_block();
  }
}

__attribute__((no_sanitize("address"))) inline void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {  // once a block
    self->in_executor = 0;
    block.body(block.body_argument);
    self->in_executor = 1;
    self->done = true;
    --block.alive;
    pass_barrier_if_complete(block.barrier);  // threads that have exited are not waited for
    switch_to(choose_next(*self));
  }
}

inline void drop_threads() {
  for (auto& t : block.threads) free_stack(*t);
  block.threads.clear();
}

// Threads, their indices and their running order: lanes of a warp stay neighbours in every order.
inline void prepare_threads(dim3 extent) {
  const unsigned size = extent.x * extent.y * extent.z, warps = (size + kWarpSize - 1) / kWarpSize;
  block.thread_extent = extent;
  while (block.threads.size() < size) block.threads.push_back(make_thread(thread_main));
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

// The running block's threads and barriers as at the start of a launch.
inline void start_block() {
  block.alive = block.size;
  block.barrier = Barrier{};
  block.mbarriers.clear();
  block.bulk_copies.clear();
  block.named_barriers.clear();
  block.wgmmas.assign(block.warps.size(), WarpWgmmas{});
  block.wgmma_issues.clear();
  races::begin_block();
  for (unsigned i = 0; i < block.size; ++i) {
    Thread& t = *block.threads[i];
    t.done = false;
    t.generation = nullptr;
    t.what = "its start";
    t.copy_groups.clear();
    t.group_open = false;
    t.in_executor = 1;
  }
}

inline void check_what_the_block_left() {
  if (!block.error.empty()) return;
  if (!block.bulk_copies.empty()) {
    block.error = "all threads of " + block.name() + " have finished, but the bulk copy issued at " +
                  to_string(block.bulk_copies.front().where) + " was not waited for";
  } else {
    block.error = unfinished_wgmma();
  }
}

// Runs the blocks that have been started to their end.
inline void run_blocks() {
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
  std::string error = block.error;
  if (error.empty()) {
    for_blocks([&] {
      check_what_the_block_left();
      if (error.empty()) error = block.error;
    });
  }
  if (error.empty()) return;
  for_blocks([] {  // their stacks are in the middle of the kernel
    block.error.clear();
    drop_threads();
  });
  throw std::runtime_error("cuda_on_host: " + error);
}

}  // namespace cuda_on_host
