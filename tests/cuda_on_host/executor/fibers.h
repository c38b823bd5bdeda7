// One fiber per CUDA thread: its stack, its place in the block, and the switch from one to another.
#pragma once

#include <sys/mman.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <new>
#include <source_location>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// The last parameter of what kernels call: the line of the call.
#define CUDA_ON_HOST_WHERE ::cuda_on_host::Where where = ::cuda_on_host::Where::current()

namespace cuda_on_host {

using Where = std::source_location;

inline std::string to_string(const Where& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

constexpr unsigned kWarpSize = 32;
constexpr size_t kStackBytes =
#if defined(__SANITIZE_ADDRESS__) || defined(CUDA_ON_HOST_RACES)
    256 << 10;  // instrumented code takes more
#else
    64 << 10;
#endif
constexpr size_t kGuardBytes = 4096;

// One cp.async: `bytes` bytes of which the first `valid` come from global memory and the rest are zero.
struct AsyncCopy {
  void* shared;
  const void* global;
  unsigned bytes, valid;
};

// The cp.async copies between two commits; `operation` is their name in the race detector.
struct CopyGroup {
  std::vector<AsyncCopy> copies;
  unsigned operation = 0;
};

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
  std::deque<CopyGroup> copy_groups;  // not yet waited for; the last one is still open where group_open
  bool group_open = false;
  int in_executor = 0;  // above 0 the race detector looks away: the accesses are the executor's own

  unsigned lane() const { return linear % kWarpSize; }
  unsigned warp() const { return linear / kWarpSize; }
  bool runnable() const { return !done && (!generation || *generation != seen); }
};

inline Thread* self = nullptr;  // the running thread; outside kernels, the host's
inline Thread host;

// While one lives, this thread's accesses are the executor's and none of the kernel's.
class InExecutor {
 public:
  InExecutor() { ++thread_->in_executor; }
  ~InExecutor() { --thread_->in_executor; }
  InExecutor(const InExecutor&) = delete;

 private:
  Thread* thread_ = self;
};

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

// A fiber that starts in `entry` when it is first switched to.
inline std::unique_ptr<Thread> make_thread(void (*entry)()) {
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
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  t->stack_pointer = top;
#else
  getcontext(&t->context);
  t->context.uc_stack.ss_sp = t->stack;
  t->context.uc_stack.ss_size = kStackBytes;
  t->context.uc_link = nullptr;
  makecontext(&t->context, entry, 0);
#endif
  return t;
}

inline void free_stack(const Thread& t) { munmap(t.stack - kGuardBytes, kGuardBytes + kStackBytes); }

}  // namespace cuda_on_host
