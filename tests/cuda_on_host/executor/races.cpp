// The race detector: reports two accesses to the same bytes by one launch, at least one of them a store, that nothing
// orders.
//
// How accesses are seen    Kernels are compiled with -fsanitize=thread, so g++ calls __tsan_readN or __tsan_writeN
//                          before every load and store; the functions of that name below take the place of the
//                          sanitizer's own library. Kernel sources stay as they are. This file is compiled without.
// What is remembered       For every 8 bytes, the accesses that a later one could still race with: who, when, where.
// What orders              Vector clocks (C. J. Fidge, "Timestamps in message-passing systems that preserve the partial
//                          ordering", 1988; for races: C. Flanagan, S. N. Freund, "FastTrack", PLDI 2009). A thread has
//                          a time, which grows whenever it publishes its past, and knows of every other thread the time
//                          up to which it is ordered after it. __syncthreads and __syncwarp join what their threads
//                          know, mbarriers what the arriving ones knew, fences around atomics what was published
//                          before. Shuffles and votes order nothing: CUDA promises no memory ordering for them.
// Asynchronous copies      are threads of their own from issue to completion: nobody knows of them before the wait.
// Shared arrays            have a red zone behind them: an access there is reported too.
// Across blocks            a block knows of another one of its launch only through fences and atomics, or grid_sync.
#include "races.h"

#include <dlfcn.h>

#include <cstdio>
#include <map>
#include <unordered_map>

#include "shared_memory.h"

namespace cuda_on_host::races {
namespace {

// ---------------------------------------------------------------- clocks

// Threads are numbered as in the block; its asynchronous operations follow. Times start at 1; 0: nothing known.
using Times = std::vector<uint32_t>;
using Clock = std::map<uint64_t, std::shared_ptr<const Times>>;  // by block; shared, because most threads know the same

void join(Clock& clock, uint64_t of_block, const std::shared_ptr<const Times>& times) {
  std::shared_ptr<const Times>& mine = clock[of_block];
  if (!mine) mine = times;
  if (mine == times) return;
  Times larger = *mine;
  if (larger.size() < times->size()) larger.resize(times->size());
  for (size_t i = 0; i < times->size(); ++i) larger[i] = std::max(larger[i], (*times)[i]);
  mine = std::make_shared<const Times>(std::move(larger));
}

void join(Clock& clock, const Clock& other) {
  for (const auto& [of_block, times] : other) join(clock, of_block, times);
}

struct State {
  uint32_t time = 1;
  uint32_t fenced = 0;  // stores up to this time are visible to the asynchronous proxy
  std::shared_ptr<const Clock> known = std::make_shared<const Clock>();
  Clock published, taken;  // at the last fence, for atomics to come; by atomics, for the next fence
};

struct Operation {
  unsigned thread;
  Proxy proxy;
};

uint64_t now;                       // the running block
std::vector<State> states;          // of its threads
std::vector<Operation> operations;  // of the block; operation i is number states.size() + i in clocks
std::vector<Clock> points;
struct Suspended {  // the three of a block that waits for another one
  std::vector<State> states;
  std::vector<Operation> operations;
  std::vector<Clock> points;
};
std::map<unsigned, Suspended> suspended;  // by number
Clock of_grid_arrivals, of_grid;  // what those knew who have arrived at the grid's barrier; what all knew at the last one
std::unordered_map<const void*, Clock> atomics;  // what was published at an address

void learn(Clock& clock, unsigned number, uint32_t time) {
  const std::shared_ptr<const Times>& known = clock[now];
  Times times = known ? *known : Times();
  if (times.size() <= number) times.resize(number + 1);
  times[number] = std::max(times[number], time);
  clock[now] = std::make_shared<const Times>(std::move(times));
}

void learn(State& state, const Clock& clock) {
  Clock known = *state.known;
  join(known, clock);
  state.known = std::make_shared<const Clock>(std::move(known));
}

// What this thread knows and has done so far; what it does next is later.
Clock past_of(State& state) {
  Clock past = *state.known;
  learn(past, static_cast<unsigned>(&state - states.data()), state.time++);
  return past;
}

template <class Member>
void meet(Member&& is_member) {
  Clock joined;
  const Clock* last = nullptr;
  Times times;
  for (size_t i = 0; i < states.size(); ++i) {
    if (!is_member(i)) continue;
    if (states[i].known.get() != last) join(joined, *(last = states[i].known.get()));
  }
  if (joined.count(now)) times = *joined[now];
  if (times.size() < states.size()) times.resize(states.size());
  for (size_t i = 0; i < states.size(); ++i) {
    if (is_member(i)) times[i] = states[i].time++;
  }
  joined[now] = std::make_shared<const Times>(std::move(times));
  const auto known = std::make_shared<const Clock>(std::move(joined));
  for (size_t i = 0; i < states.size(); ++i) {
    if (is_member(i)) states[i].known = known;
  }
}

// ---------------------------------------------------------------- accesses

// A plain access is known by the instruction after it, any other one by the caller's line.
struct Origin {
  const char* what;
  const void* instruction = nullptr;
  Where where = {};
};

struct Access {
  unsigned char bytes;  // bit b: byte b of the eight
  Kind kind;
  Proxy proxy;
  unsigned number;  // of the thread or operation
  unsigned thread;
  uint32_t time;
  uint64_t block;
  Origin origin;
};

// Accesses that something ordered are dropped when a later one stands for them; beyond so many, the oldest is.
constexpr size_t kAccessesRemembered = 64;
using Word = std::vector<Access>;
constexpr uintptr_t kWordsPerPage = 512;
using Page = std::vector<Word>;
std::unordered_map<uintptr_t, Page> pages;
std::pair<uintptr_t, Page*> last_page;

Word& word_at(uintptr_t index) {
  if (!last_page.second || last_page.first != index / kWordsPerPage) {
    last_page = {index / kWordsPerPage, &pages[index / kWordsPerPage]};
    last_page.second->resize(kWordsPerPage);
  }
  return (*last_page.second)[index % kWordsPerPage];
}

// Calls body(word index, mask of bytes) for the words that [p, p + bytes) touches.
template <class Body>
void for_words(const void* p, size_t bytes, Body&& body) {
  const auto begin = reinterpret_cast<uintptr_t>(p), end = begin + bytes;
  for (uintptr_t word = begin / 8; word * 8 < end; ++word) {
    const uintptr_t first = std::max(begin, word * 8) - word * 8, last = std::min(end, word * 8 + 8) - word * 8;
    body(word, static_cast<unsigned char>((1u << last) - (1u << first)));
  }
}

// Conflicts of either kind: a store with all, a load or an atomic with all but its like.
bool conflict(Kind a, Kind b) { return a == Kind::Write || b == Kind::Write || a != b; }

bool ordered(const Access& before, const State& observer, unsigned observer_number) {
  if (before.block == now && before.number == observer_number) return true;
  const auto known = observer.known->find(before.block);
  return known != observer.known->end() && before.number < known->second->size() &&
         (*known->second)[before.number] >= before.time;
}

// A store that the thread did not announce to the asynchronous proxy, which therefore may not see it.
bool unannounced(const Access& before, const Access& after) {
  return after.proxy == Proxy::Async && before.proxy == Proxy::Generic && before.kind == Kind::Write &&
         before.block == now && before.number < states.size() && before.time > states[before.number].fenced;
}

// The source lines of an instruction: where it stands, and where that function was inlined.
std::string lines_of(const void* instruction) {
  Dl_info library;
  if (!dladdr(instruction, &library)) return "an unknown line";
  const auto offset = static_cast<const char*>(instruction) - static_cast<const char*>(library.dli_fbase) - 1;
  char text[512];
  std::snprintf(text, sizeof text, "addr2line -i -e '%s' 0x%zx", library.dli_fname, static_cast<size_t>(offset));
  std::string lines;
  if (FILE* pipe = popen(text, "r")) {
    while (std::fgets(text, sizeof text, pipe)) {
      std::string line = text;
      line.resize(line.find_first_of(" \n"));
      if (line.find("cuda_on_host/executor") != std::string::npos) continue;
      lines += (lines.empty() ? "" : ", inlined at ") + line;
    }
    pclose(pipe);
  }
  return lines.empty() ? "an unknown line" : lines;
}

std::string describe(const Access& access) {
  const Origin& origin = access.origin;
  std::string text = std::string(origin.what) + " by thread " + std::to_string(access.thread);
  if (access.block != now) text += " of block " + std::to_string(access.block);
  return text + " at " + (origin.instruction ? lines_of(origin.instruction) : to_string(origin.where));
}

[[noreturn]] void report(const void* p, const Access& before, const Access& after, const char* why) {
  bool shared = false;
  for (const auto& [data, bytes] : block.shared) shared |= p >= data && p < data + bytes;
  fail(std::string("race on ") + (shared ? "shared" : "global") + " memory in " + block.name() + ": " + why +
       "\n  first:  " + describe(before) + "\n  second: " + describe(after));
}

void remember(const void* p, size_t bytes, Access access) {
  const State& observer = states[access.thread];
  const bool operation = access.number >= states.size();
  for_words(p, bytes, [&](uintptr_t index, unsigned char mask) {
    access.bytes = mask;
    Word& word = word_at(index);
    for (const Access& before : word) {
      if (!(before.bytes & mask) || !conflict(before.kind, access.kind)) continue;
      const auto* byte = reinterpret_cast<const void*>(index * 8);
      if (!ordered(before, observer, access.thread)) report(byte, before, access, "nothing orders these two");
      if (unannounced(before, access)) {
        report(byte, before, access, "the thread of the first makes no fence_proxy_async() before the second");
      }
    }
    if (!operation) {  // whatever comes after this access without racing comes after those too
      std::erase_if(word, [&](const Access& before) {
        return !(before.bytes & ~mask) && (before.kind == access.kind || access.kind == Kind::Write) &&
               ordered(before, observer, access.thread);
      });
    }
    if (word.size() == kAccessesRemembered) word.erase(word.begin());
    word.push_back(access);
  });
}

Access by_thread(Kind kind, const Origin& origin) {
  return {0, kind, Proxy::Generic, self->linear, self->linear, states[self->linear].time, now, origin};
}

void observe(const void* p, size_t bytes, bool write, const void* instruction) {
  const auto within = [p](const void* begin, size_t size) {
    return p >= begin && p < static_cast<const char*>(begin) + size;
  };
  Thread* thread = self;
  if (!thread || thread == &host || thread->in_executor) return;
  for (const Accumulator& accumulator : block.wgmmas[thread->warp()].in_flight[thread->lane()]) {
    if (!within(accumulator.registers, accumulator.values.size() * sizeof(float))) continue;
    const InExecutor guard;
    fail("an accumulator is used while wgmma are in flight: " +
         describe(by_thread(write ? Kind::Write : Kind::Read, {write ? "store" : "load", instruction})));
  }
  const auto& [parameters, parameter_bytes] = block.parameters;
  const bool own = within(thread->stack, thread->stack_bytes) || within(parameters, parameter_bytes);
  const bool of_executor = within(thread, sizeof *thread) || within(&block, sizeof block) || within(&self, sizeof self);
  if (own || of_executor) return;
  const InExecutor guard;
  const Access access = by_thread(write ? Kind::Write : Kind::Read, {write ? "store" : "load", instruction});
  for (const auto& [data, size] : block.shared) {
    if (within(data, size + kRedZone) && static_cast<const char*>(p) + bytes > data + size) {
      fail("past the end of a shared array in " + block.name() + ": " + describe(access));
    }
  }
  remember(p, bytes, access);
}

}  // namespace

// ---------------------------------------------------------------- what the executor tells

void begin_launch() {
  pages.clear();
  last_page = {};
  atomics.clear();
  suspended.clear();
  of_grid_arrivals.clear();
}

void enter_block(unsigned left) {
  suspended[left] = {std::move(states), std::move(operations), std::move(points)};
  now = block.linear_index();
  Suspended& resumed = suspended[grid.running];
  states = std::move(resumed.states);
  operations = std::move(resumed.operations);
  points = std::move(resumed.points);
}

void begin_block() {
  now = block.linear_index();
  states.assign(block.size, State{});
  operations.clear();
  points.clear();
}

void new_memory(const void* p, size_t bytes) {
  for_words(p, bytes, [](uintptr_t index, unsigned char) { word_at(index).clear(); });
}

void access(const void* p, size_t bytes, Kind kind, const char* what, const Where& where) {
  remember(p, bytes, by_thread(kind, {what, nullptr, where}));
  if (kind != Kind::Atomic) return;
  State& state = states[self->linear];
  Clock& published = atomics[p];
  join(state.taken, published);
  join(published, state.published);
}

void meet_block() {
  meet([](size_t) { return true; });
}

void meet_warp(unsigned warp, unsigned mask) {
  meet([=](size_t thread) { return thread / kWarpSize == warp && mask >> thread % kWarpSize & 1; });
}

void arrive_at_grid() { join(of_grid_arrivals, past_of(states[self->linear])); }

void meet_grid() { of_grid = of_grid_arrivals; }

void leave_grid() { learn(states[self->linear], of_grid); }

void fence() {
  State& state = states[self->linear];
  learn(state, state.taken);
  state.taken.clear();
  state.published = past_of(state);
}

void proxy_fence() {
  State& state = states[self->linear];
  state.fenced = state.time++;
}

unsigned begin_operation(Proxy proxy) {
  operations.push_back({self->linear, proxy});
  return static_cast<unsigned>(states.size() + operations.size() - 1);
}

void operation_access(unsigned number, const void* p, size_t bytes, Kind kind, const char* what, const Where& where) {
  const Operation& operation = operations[number - states.size()];
  remember(p, bytes, {0, kind, operation.proxy, number, operation.thread, 1, now, {what, nullptr, where}});
}

void operation_done(unsigned number) {
  State& state = states[self->linear];
  Clock known = *state.known;
  learn(known, number, 1);
  state.known = std::make_shared<const Clock>(std::move(known));
}

unsigned new_point() {
  points.emplace_back();
  return static_cast<unsigned>(points.size() - 1);
}

void give(unsigned point) { join(points[point], past_of(states[self->linear])); }

void give_operation(unsigned point, unsigned number) { learn(points[point], number, 1); }

void take(unsigned point) { learn(states[self->linear], points[point]); }

unsigned successor(unsigned point) {
  points.push_back(Clock(points[point]));
  return static_cast<unsigned>(points.size() - 1);
}

}  // namespace cuda_on_host::races

// ---------------------------------------------------------------- what the compiler calls

extern "C" {
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}

#define CUDA_ON_HOST_PLAIN_ACCESS(name, bytes, write) \
  void __tsan_##name(void* p) { cuda_on_host::races::observe(p, bytes, write, __builtin_return_address(0)); }
#define CUDA_ON_HOST_PLAIN_ACCESSES(bytes)                             \
  CUDA_ON_HOST_PLAIN_ACCESS(read##bytes, bytes, false)                 \
  CUDA_ON_HOST_PLAIN_ACCESS(write##bytes, bytes, true)                 \
  CUDA_ON_HOST_PLAIN_ACCESS(unaligned_read##bytes, bytes, false)       \
  CUDA_ON_HOST_PLAIN_ACCESS(unaligned_write##bytes, bytes, true)
CUDA_ON_HOST_PLAIN_ACCESSES(1)
CUDA_ON_HOST_PLAIN_ACCESSES(2)
CUDA_ON_HOST_PLAIN_ACCESSES(4)
CUDA_ON_HOST_PLAIN_ACCESSES(8)
CUDA_ON_HOST_PLAIN_ACCESSES(16)

void __tsan_read_range(void* p, size_t bytes) {
  cuda_on_host::races::observe(p, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t bytes) {
  cuda_on_host::races::observe(p, bytes, true, __builtin_return_address(0));
}
}
