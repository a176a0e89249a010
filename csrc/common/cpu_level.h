// Which instruction set the CPU kernels use. One binary carries every level; see CMakeLists.txt.
#pragma once

namespace sdd {

enum class CpuLevel { kPortable = 0, kX86V3 = 1, kX86V4 = 2 };

// The best level that was compiled and that this CPU (and operating system) supports, not above
// SDD_FAST_CPU=portable|x86-64-v3|x86-64-v4 when that is set. Decided once.
CpuLevel cpu_level();
const char* cpu_level_name();

}  // namespace sdd

// The copy of FN for the level in use: SDD_FOR_CPU_LEVEL(entropy_chunk_).
#if defined(SDD_HAVE_X86_LEVELS)
#define SDD_FOR_CPU_LEVEL(FN)                                  \
  (sdd::cpu_level() == sdd::CpuLevel::kX86V4   ? FN##x86_64_v4 \
   : sdd::cpu_level() == sdd::CpuLevel::kX86V3 ? FN##x86_64_v3 \
                                               : FN##portable)
#else
#define SDD_FOR_CPU_LEVEL(FN) FN##portable
#endif
