// The pool of workspaces: free blocks by size, under a lock that is held for a lookup.
#include "ops/workspace.h"

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

class Pool {
 public:
  // The smallest free block of at least `bytes`, unless that would waste most of it; bytes becomes its size.
  void* take(int64_t& bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = free_.lower_bound(bytes);
    if (found == free_.end() || found->first > 4 * bytes) return nullptr;
    void* const block = found->second;
    bytes = found->first;
    held_ -= bytes;
    free_.erase(found);
    return block;
  }

  // Keeps the block if there is room, making some by letting smaller blocks go.
  void give(void* block, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (held_ + bytes > kKeptBytes && !free_.empty() && free_.begin()->first < bytes) drop(free_.begin());
    if (held_ + bytes > kKeptBytes) return std::free(block);
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
    std::free(block->second);
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

void* allocate(int64_t& bytes) {
  const int64_t alignment = bytes >= kHugePage ? kHugePage : 64;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* block = nullptr;
  if (posix_memalign(&block, size_t(alignment), size_t(bytes)) != 0) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(block, size_t(bytes), MADV_HUGEPAGE);
#endif
  return block;
}

}  // namespace

Workspace::Workspace(int64_t floats) : bytes_(floats * int64_t(sizeof(float))) {
  if (bytes_ < 64) bytes_ = 64;
  void* block = pool().take(bytes_);
  if (block == nullptr) block = allocate(bytes_);
  data_ = static_cast<float*>(block);
}

Workspace::~Workspace() { pool().give(data_, bytes_); }

int64_t release_workspaces() { return pool().release(); }

}  // namespace fastgan::ops
