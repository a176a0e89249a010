// Elementary functions written once for every place a kernel runs: a scalar on the host, a scalar
// on a CUDA device, or a SIMD vector (common/simd.h adds Real<Vector>). No libm, no branches.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SDD_FN __host__ __device__ __forceinline__
#else
#define SDD_FN inline __attribute__((always_inline))
#endif

namespace sdd {
namespace {  // internal linkage: each instruction set compiles its own copy

SDD_FN constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What a template needs to know about a type T: its scalar, and its bits as unsigned integers.
template <class T>
struct Real;

template <class ScalarType, class BitsType>
struct ScalarReal {
  using Scalar = ScalarType;
  using Bits = BitsType;
  SDD_FN static Bits bits(Scalar x) { return __builtin_bit_cast(Bits, x); }
  SDD_FN static Scalar from_bits(Bits b) { return __builtin_bit_cast(Scalar, b); }
  SDD_FN static Scalar from_integer(Bits b) { return Scalar(b); }
  SDD_FN static Scalar larger(Scalar a, Scalar b) { return a > b ? a : b; }  // b beside a NaN
  SDD_FN static Scalar smaller(Scalar a, Scalar b) { return a < b ? a : b; }
};

template <>
struct Real<float> : ScalarReal<float, uint32_t> {};
template <>
struct Real<double> : ScalarReal<double, uint64_t> {};

template <class T>
using ScalarOf = typename Real<T>::Scalar;

// Constants of e^x = 2^k e^r, r = x - k ln 2. ln2_high has so few bits that k * ln2_high is exact.
// Adding `magic` rounds to an integer and leaves k + exponent bias in the low bits of the sum.
template <class Scalar>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float log2_e = 1.44269504088896341f;
  static constexpr float ln2_high = 0.693359375f;
  static constexpr float ln2_low = -2.12194440e-4f;
  static constexpr float magic = 12582912.0f + 127.0f;  // 1.5 * 2^23 + bias
  static constexpr float lowest = -87.0f;               // below it e^x counts as 0
  static constexpr int mantissa_bits = 23;
  static constexpr int tail_degree = 6;  // r^7 / 9! < 2e-9 at |r| = ln 2 / 2
};

template <>
struct ExpConstants<double> {
  static constexpr double log2_e = 1.44269504088896340736;
  static constexpr double ln2_high = 6.93145751953125e-1;
  static constexpr double ln2_low = 1.42860682030941723212e-6;
  static constexpr double magic = 6755399441055744.0 + 1023.0;  // 1.5 * 2^52 + bias
  static constexpr double lowest = -700.0;
  static constexpr int mantissa_bits = 52;
  static constexpr int tail_degree = 12;  // r^13 / 15! < 1e-18
};

SDD_FN constexpr double factorial(int k) { return k <= 1 ? 1.0 : k * factorial(k - 1); }

// (e^r - 1 - r) / r^2 = 1/2! + r/3! + r^2/4! + ...   up to r^Degree, by Horner's rule.
template <int Degree, int First = 0, class T>
SDD_FN T exp_tail(T r) {
  using S = ScalarOf<T>;
  constexpr S coefficient = S(1.0 / factorial(First + 2));
  if constexpr (First == Degree) {
    return T{} + coefficient;
  } else {
    return exp_tail<Degree, First + 1>(r) * r + coefficient;
  }
}

// x = k ln 2 + r with |r| <= ln 2 / 2, and 2^k, for lowest <= x <= -lowest.
template <class T>
struct Reduced {
  T k;
  T r;
  T two_to_k;
};

template <class T>
SDD_FN Reduced<T> reduce_exponent(T x) {
  using C = ExpConstants<ScalarOf<T>>;
  const T shifted = x * C::log2_e + C::magic;
  const T k = shifted - C::magic;
  const T r = (x - k * C::ln2_high) - k * C::ln2_low;
  return {k, r, Real<T>::from_bits(Real<T>::bits(shifted) << C::mantissa_bits)};
}

// Below `lowest`, e^x counts as 0.
template <class T>
SDD_FN T clamp_exponent(T x) {
  return Real<T>::larger(x, T{} + ExpConstants<ScalarOf<T>>::lowest);
}

// e^x for lowest <= x <= -lowest, as 2^k (1 + r + r^2 / 2! + ...).
template <class T>
SDD_FN T exp_in_range(T x) {
  constexpr int degree = sizeof(ScalarOf<T>) == 4 ? 5 : ExpConstants<double>::tail_degree;
  const Reduced<T> e = reduce_exponent(x);
  return e.two_to_k * ((exp_tail<degree>(e.r) * e.r + 1) * e.r + 1);  // r^8 / 8! < 6e-9
}

template <class T>
SDD_FN T absolute(T x) {
  return Real<T>::from_bits(Real<T>::bits(x) << 1 >> 1);  // drops the sign bit
}
// On GPUs a modifier of the next instruction.
SDD_FN float absolute(float x) { return __builtin_fabsf(x); }
SDD_FN double absolute(double x) { return __builtin_fabs(x); }

// The 16 bits of a bfloat16, as an unsigned integer of 32.
template <class T>
SDD_FN T bfloat16_to_float(typename Real<T>::Bits b) {
  return Real<T>::from_bits(b << 16);
}

// The same of a float16. Branch-free and exact for every bit pattern: normal numbers change the
// bias of the exponent, Inf and NaN change it twice; subnormals are counted in units of 2^-24
// (float subnormals would do the same, but each costs a microcode assist).
template <class T>
SDD_FN T half_to_float(typename Real<T>::Bits h) {
  using Bits = typename Real<T>::Bits;
  const Bits zero{};
  const Bits rebias = zero + (112u << 23);
  const Bits magnitude = h & 0x7fffu;
  const Bits normal = (magnitude << 13) + rebias + (magnitude >= 0x7c00u ? rebias : zero);
  const Bits subnormal = Real<T>::bits(Real<T>::from_integer(magnitude) * 0x1p-24f);
  const Bits absolute_value = magnitude < 0x0400u ? subnormal : normal;
  return Real<T>::from_bits(absolute_value | (h & 0x8000u) << 16);
}

}  // namespace
}  // namespace sdd
