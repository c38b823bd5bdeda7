// What kernels.cpp and conv_kernels.cpp put around a kernel's launcher.
#pragma once

#include <cstring>
#include <exception>
#include <memory>
#include <string>

using namespace fastgan::cuda;

namespace {

std::string message;

template <class Body>
const char* guarded(Body&& body) {
  try {
    const cudaError_t status = body();
    if (status == cudaSuccess) return nullptr;
    message = "launch returned error " + std::to_string(static_cast<int>(status));
  } catch (const std::exception& e) {
    message = e.what();
  }
  return message.c_str();
}

// Exactly `bytes` bytes of NaN: the address sanitizer sees an overrun, the result a read before a write.
std::unique_ptr<void, void (*)(void*)> workspace(int64_t bytes) {
  void* p = std::malloc(static_cast<size_t>(bytes));
  std::memset(p, 0xFF, static_cast<size_t>(bytes));
  return {p, std::free};
}

}  // namespace
