// What the sweeps share: memory of exactly the right size, and the list of what ran.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <set>

#include "dtype.h"
#include "kernel_calls.h"

namespace {

int failures = 0;
std::set<std::string> ran;

void check(const char* op, const char* error) {
  ran.insert(op);
  if (!error) return;
  std::printf("%s: %s\n", op, error);
  ++failures;
}

// `bytes` of ones bits pattern 0x3c: a small positive number in every dtype; `offset` elements off the aligned start.
class Buffer {
 public:
  Buffer(int64_t numel, DType dtype, int64_t offset = 0) : element_(dtype == DType::Float32 ? 4 : 2) {
    const size_t bytes = static_cast<size_t>((numel + offset) * element_);
    memory_ = static_cast<char*>(std::malloc(bytes));
    std::memset(memory_, 0x3c, bytes);
    data_ = memory_ + offset * element_;
  }
  ~Buffer() { std::free(memory_); }
  Buffer(const Buffer&) = delete;
  operator void*() const { return data_; }
  operator float*() const { return reinterpret_cast<float*>(data_); }

 private:
  int64_t element_;
  char *memory_, *data_;
};

int report() {
  for (const std::string& op : ran) std::printf("ran %s\n", op.c_str());
  std::printf("%d failures\n", failures);
  return failures != 0;
}

}  // namespace
