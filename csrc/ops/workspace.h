// Memory of CPU kernels, kept between calls: fresh pages cost as much as the passes that fill them.
#pragma once

#include <cstdint>

namespace fastgan::ops {

// Uninitialised memory, aligned to 64 bytes (to 2 MB, with huge pages, where it is large), from a pool that all threads share
// and that keeps at most kKeptBytes.
struct PooledBlock {
  void* data;
  int64_t bytes;

  // A block of `bytes` to `most`.
  static PooledBlock take(int64_t bytes, int64_t most);
  void give_back() const;
};

constexpr int64_t kKeptBytes = int64_t(512) << 20;

// Floats from the pool, given back at the end of the scope.
class Workspace {
 public:
  explicit Workspace(int64_t floats) : block_(PooledBlock::take(4 * floats, 16 * floats)) {}
  ~Workspace() { block_.give_back(); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  float* data() const { return static_cast<float*>(block_.data); }

 private:
  PooledBlock block_;
};

// Gives what the pool holds back to the system; bytes that it held.
int64_t release_workspaces();

}  // namespace fastgan::ops
