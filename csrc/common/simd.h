// SIMD vectors of SDD_VECTOR_BYTES bytes as GCC/Clang vector extensions: + - * / < ?: work on them
// lane by lane, so that the scalar formulas of an op instantiate unchanged. The compiler lowers
// them to whatever the translation unit targets, on x86 and on arm64 alike.
#pragma once

#include <cstring>

#include "real.h"

#ifndef SDD_VECTOR_BYTES
#define SDD_VECTOR_BYTES 16
#endif

// The name of this instruction set's copy of a kernel: SDD_JOIN(entropy_chunk_, SDD_ISA).
#define SDD_JOIN_(a, b) a##b
#define SDD_JOIN(a, b) SDD_JOIN_(a, b)

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
};

template <>
struct Real<FloatVector> : VectorReal<FloatVector, float, UInt32Vector> {};
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
constexpr int lanes = SDD_VECTOR_BYTES / sizeof(Scalar);

template <class Scalar>
SDD_FN typename VectorOf<Scalar>::type load(const Scalar* p) {
  typename VectorOf<Scalar>::type v;
  memcpy(&v, p, sizeof(v));
  return v;
}

// As many 16-bit integers as a FloatVector has lanes, widened.
SDD_FN UInt32Vector load_widened(const uint16_t* p) {
  typedef uint16_t Half __attribute__((vector_size(SDD_VECTOR_BYTES / 2)));
  Half v;
  memcpy(&v, p, sizeof(v));
  return __builtin_convertvector(v, UInt32Vector);
}

}  // namespace
}  // namespace sdd
