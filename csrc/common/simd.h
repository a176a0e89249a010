// SIMD vectors of SDD_VECTOR_BYTES bytes as GCC/Clang vector extensions: + - * / < ?: work on them
// lane by lane, so that the scalar formulas of an op instantiate unchanged. The compiler lowers
// them to whatever the translation unit targets, on x86 and on arm64 alike.
#pragma once

#include <cstring>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "real.h"

#ifndef SDD_VECTOR_BYTES
#define SDD_VECTOR_BYTES 16
#endif

// The name of this instruction set's copy of a kernel: SDD_JOIN(entropy_chunk_, SDD_ISA).
#define SDD_JOIN_(a, b) a##b
#define SDD_JOIN(a, b) SDD_JOIN_(a, b)

#if defined(__clang__)
#define SDD_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SDD_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Mask{__VA_ARGS__})
#endif

namespace sdd {
namespace {

typedef float FloatVector __attribute__((vector_size(SDD_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(SDD_VECTOR_BYTES)));
typedef uint32_t UInt32Vector __attribute__((vector_size(SDD_VECTOR_BYTES)));
typedef uint64_t UInt64Vector __attribute__((vector_size(SDD_VECTOR_BYTES)));

template <class Vector, class ScalarType, class BitsType>
struct VectorReal {
  using Scalar = ScalarType;
  using Bits = BitsType;
  SDD_FN static Bits bits(Vector x) { return (Bits)x; }
  SDD_FN static Vector from_bits(Bits b) { return (Vector)b; }
  SDD_FN static Vector from_integer(Bits b) { return __builtin_convertvector(b, Vector); }
  SDD_FN static Vector larger(Vector a, Vector b) { return a > b ? a : b; }  // b beside a NaN
  SDD_FN static Vector smaller(Vector a, Vector b) { return a < b ? a : b; }
};

template <>
struct Real<FloatVector> : VectorReal<FloatVector, float, UInt32Vector> {
#if defined(__AVX512F__)  // the same in one instruction, which compilers do not find
  SDD_FN static FloatVector larger(FloatVector a, FloatVector b) {
    return (FloatVector)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
  }
  SDD_FN static FloatVector smaller(FloatVector a, FloatVector b) {
    return (FloatVector)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
  }
#elif defined(__AVX__)
  SDD_FN static FloatVector larger(FloatVector a, FloatVector b) {
    return (FloatVector)_mm256_max_ps((__m256)a, (__m256)b);
  }
  SDD_FN static FloatVector smaller(FloatVector a, FloatVector b) {
    return (FloatVector)_mm256_min_ps((__m256)a, (__m256)b);
  }
#endif
};
template <>
struct Real<DoubleVector> : VectorReal<DoubleVector, double, UInt64Vector> {};

template <class Scalar>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};

template <class Scalar>
using Vector = typename VectorOf<Scalar>::type;

template <class Scalar>
constexpr int lanes = SDD_VECTOR_BYTES / sizeof(Scalar);

template <class Scalar>
SDD_FN Vector<Scalar> load(const Scalar* p) {
  Vector<Scalar> v;
  memcpy(&v, p, sizeof(v));
  return v;
}

// The lanes of v in float64, in as many vectors as that takes.
SDD_FN void widen(FloatVector v, DoubleVector (&to)[2]) {
  typedef float Half __attribute__((vector_size(SDD_VECTOR_BYTES / 2)));
  Half half[2];
  memcpy(half, &v, sizeof(v));
  to[0] = __builtin_convertvector(half[0], DoubleVector);
  to[1] = __builtin_convertvector(half[1], DoubleVector);
}
SDD_FN void widen(DoubleVector v, DoubleVector (&to)[1]) { to[0] = v; }

// A number as a type: what a generic lambda takes to unroll a loop.
template <int kCount>
using Count = std::integral_constant<int, kCount>;

// Vectors that trade lanes: pairs zipped and split, square blocks transposed.
template <class Scalar, class I = std::make_integer_sequence<int, lanes<Scalar>>>
struct Shuffle;

template <class Scalar, int... I>
struct Shuffle<Scalar, std::integer_sequence<int, I...>> {
  using V = Vector<Scalar>;
  using Mask = typename Real<V>::Bits;
  static constexpr int width = sizeof...(I);

  // a0 b0 a1 b1 ...: the first half of it, and the second
  SDD_FN static V zip_low(V a, V b) { return SDD_SHUFFLE(a, b, (I / 2 + I % 2 * width)...); }
  SDD_FN static V zip_high(V a, V b) {
    return SDD_SHUFFLE(a, b, (width / 2 + I / 2 + I % 2 * width)...);
  }
  // every second lane of a followed by b
  SDD_FN static V even(V a, V b) { return SDD_SHUFFLE(a, b, (2 * I)...); }
  SDD_FN static V odd(V a, V b) { return SDD_SHUFFLE(a, b, (2 * I + 1)...); }

  // row[i][j] <-> row[j][i]. Zipping the halves moves one bit of the row's index to the end of the
  // lane's; log2(width) times that exchange the two.
  SDD_FN static void transpose(V (&row)[width]) {
    for (int bit = 1; bit < width; bit *= 2) {
      V next[width];
      for (int i = 0; i < width / 2; ++i) {
        next[2 * i] = zip_low(row[i], row[i + width / 2]);
        next[2 * i + 1] = zip_high(row[i], row[i + width / 2]);
      }
      for (int i = 0; i < width; ++i) row[i] = next[i];
    }
  }
};

}  // namespace
}  // namespace sdd
