// The choice of the instruction set: CPUID, lowered by ATEN_CPU_CAPABILITY as ATen's own kernels are.
#include "cpu/capability.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace fastgan::cpu {
namespace {

Capability detect() {
#if FASTGAN_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Capability::AVX512 : avx2 ? Capability::AVX2 : Capability::DEFAULT;
#else
  return Capability::DEFAULT;
#endif
}

Capability allowed() {
  const Capability has = detect();
  const char* asked = std::getenv("ATEN_CPU_CAPABILITY");
  if (asked == nullptr) return has;
  Capability limit = has;
  if (std::strcmp(asked, "default") == 0) limit = Capability::DEFAULT;
  if (std::strcmp(asked, "avx2") == 0) limit = Capability::AVX2;
  return limit < has ? limit : has;
}

std::atomic<Capability>& current() {
  static std::atomic<Capability> value{best_capability()};
  return value;
}

}  // namespace

Capability best_capability() {
  static const Capability value = allowed();
  return value;
}

Capability capability() { return current().load(std::memory_order_relaxed); }

bool set_capability(Capability wanted) {
  if (wanted > best_capability()) return false;
  current().store(wanted, std::memory_order_relaxed);
  return true;
}

const char* name(Capability capability) {
  switch (capability) {
    case Capability::AVX512: return "AVX512";
    case Capability::AVX2: return "AVX2";
    case Capability::DEFAULT: break;
  }
  return "DEFAULT";
}

}  // namespace fastgan::cpu
