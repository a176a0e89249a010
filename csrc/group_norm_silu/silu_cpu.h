// SiLU and its slope on CPU vectors of elements E. Of 16-bit elements the sigmoid need only be
// exact beside their rounding, 2^-8 or 2^-11, and takes half as many instructions. Formulas:
// group_norm_silu.h.
#pragma once

#include <limits>
#include <type_traits>

#include "../common/elements.h"
#include "group_norm_silu.h"

namespace sdd {
namespace {

#if defined(__AVX512F__)
// Intrinsics of GCC 12 without a mask warn of the header that they are in.
constexpr __mmask16 kAllLanes = 0xffff;
#endif

// 1 / x, wrong by 2^-14 of itself at most where the instruction set has an estimate.
SDD_FN FloatVector reciprocal_estimate(FloatVector x) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_maskz_rcp14_ps(kAllLanes, (__m512)x);
#elif defined(__AVX2__)
  const auto guess = (FloatVector)_mm256_rcp_ps((__m256)x);
  return guess * (2 - x * guess);
#else
  return 1 / x;
#endif
}

#if defined(__AVX512F__)
// An estimate and a step of Newton's method: wrong by two units of the last place.
template <>
struct Reciprocal<FloatVector> {
  SDD_FN static FloatVector of(FloatVector x) {
    const FloatVector guess = reciprocal_estimate(x);
    return guess * (2 - x * guess);
  }
};
#endif

// 2^x for x in [0, 1] by the polynomial of smallest relative error: 2^-13 for bfloat16, else 2^-18.
template <class E>
SDD_FN FloatVector exp2_of_rest(FloatVector x) {
  if constexpr (std::is_same_v<E, BFloat16Element>) {
    const FloatVector sum = (x * 7.8024521e-2f + 2.2606716e-1f) * x + 6.9583356e-1f;
    return sum * x + 9.999252e-1f;
  } else {
    const FloatVector sum = (x * 1.3534168e-2f + 5.201146e-2f) * x + 2.4144275e-1f;
    return (sum * x + 6.9300383e-1f) * x + 1.0000026f;
  }
}

// 2^x as exactly as that; where float32 ends, 0 and infinity, or nearly so.
template <class E>
SDD_FN FloatVector short_exp2(FloatVector x) {
#if defined(__AVX512DQ__)
  constexpr int kFloor = 1;
  const auto rest = (FloatVector)_mm512_maskz_reduce_ps(kAllLanes, (__m512)x, kFloor);
  return (FloatVector)_mm512_maskz_scalef_ps(kAllLanes, (__m512)exp2_of_rest<E>(rest), (__m512)x);
#else
  using R = Real<FloatVector>;
  constexpr float kMagic = ExpConstants<float>::magic;
  x = R::smaller(R::larger(x, FloatVector{} - 126), FloatVector{} + 126);
  const FloatVector shifted = (x - 0.5f) + kMagic;
  const FloatVector power = R::from_bits(R::bits(shifted) << ExpConstants<float>::mantissa_bits);
  return exp2_of_rest<E>(x - (shifted - kMagic)) * power;
#endif
}

// y and dy/dz of (2) and (3) for vectors of elements E
template <class E, bool kSilu>
struct Silu {
  using V = typename E::Vector;
  static constexpr bool kShort = kSilu && sizeof(typename E::Stored) == 2;
  static constexpr float kLargest = std::numeric_limits<float>::max();

  SDD_FN static V value(V z) {
    if constexpr (kShort) {
      return z * reciprocal(1 + exp_of_negative(z));
    } else {
      return activated<kSilu>(z);
    }
  }
  SDD_FN static V slope(V z) {
    if constexpr (kShort) {
      const V e = exp_of_negative(z), s = reciprocal(1 + e);
      // 1 - s, of which that difference would leave few digits; infinity times 0 is none
      const V rest = Real<V>::smaller(e, V{} + kLargest) * s;
      return s * (1 + z * rest);
    } else {
      return activation_gradient<kSilu>(V{} + 1, z);
    }
  }

 private:
  SDD_FN static V exp_of_negative(V z) { return short_exp2<E>(z * -ExpConstants<float>::log2_e); }
  SDD_FN static V reciprocal(V x) {
    if constexpr (std::is_same_v<E, BFloat16Element>) return reciprocal_estimate(x);
    return Reciprocal<V>::of(Real<V>::smaller(x, V{} + kLargest));
  }
};

// dy/dz in 16 bits, exact to 2^-17: it lies between -0.1 and 1.1, and is counted in units of 2^-15
// from -1/4 on. A NaN is lost, but not to the sums of its group.
struct Slope16 : Element16 {
  SDD_FN static Vector vector(const uint16_t* p) {
    return Real<Vector>::from_bits(load_widened(p) | 0x4b000000u) * 0x1p-15f - 256.25f;
  }
  SDD_FN static void put(uint16_t* p, Vector slope) {
    put_bits(p, Real<Vector>::bits(slope * 0x1p15f + 256.25f * 0x1p15f));  // 2^23 and the units
  }
};

// Whether the sums backwards leave dy/dz in the memory of the result, for the elements of 16 bits
// that come after: reading it takes less than another exponential, but not where it is twice as
// long.
template <class E, bool kSilu>
constexpr bool kKeepsSlope = kSilu && sizeof(typename E::Stored) == 2;

}  // namespace
}  // namespace sdd
