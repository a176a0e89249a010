// SIMD vectors of SDD_VECTOR_BYTES bytes as GCC/Clang vector extensions: + - * / < ?: work on them
// lane by lane, so that the scalar formulas of an op instantiate unchanged. The compiler lowers
// them to whatever the translation unit targets, on x86 and on arm64 alike.
#pragma once

#include <cstring>

#include "real.h"

#ifndef SDD_VECTOR_BYTES
#define SDD_VECTOR_BYTES 16
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

}  // namespace
}  // namespace sdd
