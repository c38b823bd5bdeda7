// The pool: free blocks by size, under a lock that is held for a lookup.
#include "ops/workspace.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastgan::ops {
namespace {

constexpr int64_t kHugePage = int64_t(2) << 20;

int64_t rounded_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

#if defined(__linux__)
// Large blocks are mapped, not taken from the heap, which aligned blocks of many sizes would break up.
bool is_mapped(int64_t bytes) { return bytes >= kHugePage; }

// `bytes`, a multiple of kHugePage, aligned to it: mapped with one more, of which both ends go back.
void* map(int64_t bytes) {
  void* const all = mmap(nullptr, size_t(bytes + kHugePage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) return nullptr;
  char* const first = static_cast<char*>(all);
  char* const block = reinterpret_cast<char*>(rounded_up(int64_t(reinterpret_cast<intptr_t>(first)), kHugePage));
  if (block > first) munmap(first, size_t(block - first));
  if (block < first + kHugePage) munmap(block + bytes, size_t(first + kHugePage - block));
  madvise(block, size_t(bytes), MADV_HUGEPAGE);
  return block;
}

void unmap(void* block, int64_t bytes) { munmap(block, size_t(bytes)); }
#else
bool is_mapped(int64_t) { return false; }
void* map(int64_t) { return nullptr; }
void unmap(void*, int64_t) {}
#endif

void* allocate(int64_t& bytes) {
  bytes = rounded_up(bytes, bytes >= kHugePage ? kHugePage : 64);
  void* block = nullptr;
  if (is_mapped(bytes)) {
    block = map(bytes);
  } else if (posix_memalign(&block, 64, size_t(bytes)) != 0) {
    block = nullptr;
  }
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void free_block(void* block, int64_t bytes) {
  if (is_mapped(bytes)) {
    unmap(block, bytes);
  } else {
    std::free(block);
  }
}

class Pool {
 public:
  // The smallest free block of `bytes` to `most`, or a new one; bytes becomes its size.
  void* take(int64_t& bytes, int64_t most) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = free_.lower_bound(bytes);
      if (found != free_.end() && found->first <= most) {
        void* const block = found->second;
        bytes = found->first;
        held_ -= bytes;
        free_.erase(found);
        return block;
      }
    }
    return allocate(bytes);
  }

  // Keeps the block if there is room, making some by letting smaller blocks go.
  void give(void* block, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (held_ + bytes > kKeptBytes && !free_.empty() && free_.begin()->first < bytes) drop(free_.begin());
    if (held_ + bytes > kKeptBytes) return free_block(block, bytes);
    free_.emplace(bytes, block);
    held_ += bytes;
  }

  int64_t release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t held = held_;
    while (!free_.empty()) drop(free_.begin());
    return held;
  }

 private:
  using Blocks = std::multimap<int64_t, void*>;

  void drop(Blocks::iterator block) {
    held_ -= block->first;
    free_block(block->second, block->first);
    free_.erase(block);
  }

  std::mutex mutex_;
  Blocks free_;
  int64_t held_ = 0;
};

// Never destroyed: threads may still return blocks while the process ends.
Pool& pool() {
  static Pool* const the_pool = new Pool;
  return *the_pool;
}

}  // namespace

PooledBlock PooledBlock::take(int64_t bytes, int64_t most) {
  bytes = std::max<int64_t>(bytes, 64);
  void* const data = pool().take(bytes, most);
  return {data, bytes};
}

void PooledBlock::give_back() const { pool().give(data, bytes); }

int64_t release_workspaces() { return pool().release(); }

}  // namespace fastgan::ops
