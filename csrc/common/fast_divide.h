// Division by a number that is the same for a whole launch. The GPU has no instruction for it: by
// 64-bit numbers it takes about a hundred, by the method below three.
#pragma once

#include "launch.h"

namespace sdd {
namespace {

// n / d for n < 2^31, 1 <= d < 2^31: the high half of n * m, shifted by s, with 2^s < d <= 2^(s +
// 1) and m = ceil(2^(32 + s) / d), which fits 32 bits (Granlund and Montgomery 1994, Theorem 4.2).
struct FastDivide {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  FastDivide() = default;
  explicit FastDivide(int64_t d) : divisor(uint32_t(d)) {
    if (d == 1) return;
    while ((int64_t{1} << (shift + 1)) < d) ++shift;
    multiplier = uint32_t(((uint64_t{1} << (32 + shift)) + uint64_t(d) - 1) / uint64_t(d));
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return divisor == 1 ? n : __umulhi(n, multiplier) >> shift;
  }
  __device__ __forceinline__ uint32_t remainder(uint32_t n) const {
    return n - quotient(n) * divisor;
  }
};

}  // namespace
}  // namespace sdd
