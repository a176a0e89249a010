#include "cpu_level.h"

#include <cstdlib>
#include <cstring>

namespace sdd {
namespace {

constexpr const char* kNames[] = {"portable", "x86-64-v3", "x86-64-v4"};

CpuLevel detect() {
  int level = 0;
#if defined(SDD_HAVE_X86_LEVELS)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  level = v4 ? 2 : v3 ? 1 : 0;
#endif
  if (const char* wanted = std::getenv("SDD_FAST_CPU")) {
    for (int i = 0; i < level; ++i) {
      if (std::strcmp(wanted, kNames[i]) == 0) level = i;
    }
  }
  return static_cast<CpuLevel>(level);
}

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = detect();
  return level;
}

const char* cpu_level_name() { return kNames[static_cast<int>(cpu_level())]; }

}  // namespace sdd
