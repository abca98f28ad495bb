// Which instruction set runs: probed once, overridable by KBIT_ISA or `select_kernels`.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

#if defined(KBIT_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

namespace kbit {
namespace {

std::atomic<const Kernels*> active{nullptr};

#if defined(KBIT_AMX)
// The processor has AMX for bytes, and the system lets this process use the state of its tiles, for which it must be asked once.
bool matrix_tiles_allowed() {
  static const bool allowed = [] {
    constexpr unsigned kTiles = 1u << 24, kBytes = 1u << 25;  // leaf 7, edx
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of arch_prctl(2)
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kTiles | kBytes)) != (kTiles | kBytes)) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return allowed;
}
#endif

}  // namespace

int available_kernels(const Kernels** out, int capacity) {
  int count = 0;
  const auto add = [&](const Kernels& kernels) {
    if (count < capacity) out[count++] = &kernels;
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
      __builtin_cpu_supports("avx512vnni")) {
#if defined(KBIT_AMX)
    if (matrix_tiles_allowed()) add(amx_kernels);
#endif
    add(avx512_kernels);
  }
  if (avx2) add(avx2_kernels);
#elif defined(__aarch64__)
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) add(neon_kernels);
#endif
  add(scalar_kernels);
  return count;
}

bool select_kernels(const char* name) {
  const Kernels* all[8];
  const int count = available_kernels(all, 8);
  for (int i = 0; i < count; ++i) {
    if (name[0] == '\0' || std::strcmp(all[i]->name, name) == 0) {
      active.store(all[i], std::memory_order_release);
      return true;
    }
  }
  return false;
}

const Kernels& active_kernels() {
  const Kernels* kernels = active.load(std::memory_order_acquire);
  if (kernels == nullptr) {
    const char* wanted = std::getenv("KBIT_ISA");
    if (wanted == nullptr || !select_kernels(wanted)) select_kernels("");
    kernels = active.load(std::memory_order_acquire);
  }
  return *kernels;
}

}  // namespace kbit
