// Scratch memory of CPU kernels, kept between calls: fresh pages cost as much as the passes that fill them.
#pragma once

#include <cstdint>

namespace fastgan::ops {

// A block of floats, uninitialised, aligned to 64 bytes (to 2 MB, with huge pages, where it is large). Taken from a pool that
// all threads share and returned to it at the end of the scope; the pool keeps at most kKeptBytes.
class Workspace {
 public:
  explicit Workspace(int64_t floats);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
  int64_t bytes_;
};

constexpr int64_t kKeptBytes = int64_t(96) << 20;

// Gives what the pool holds back to the system; bytes that it held.
int64_t release_workspaces();

}  // namespace fastgan::ops
