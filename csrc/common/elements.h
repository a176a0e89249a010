// How elements are stored in memory (Stored) and what is computed with (Compute): one of them, or a
// vector of neighbors. The 16-bit types widen to float32 exactly and are rounded to the nearest,
// ties to even; float32 and float64 are taken as they are.
#pragma once

#include "element.h"
#include "simd.h"

namespace sdd {
namespace {

// As many 16-bit integers as a FloatVector has lanes, widened. GCC 12 makes five instructions of
// the general way where there is one, and warns of its own header where there is no mask.
SDD_FN UInt32Vector load_widened(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (UInt32Vector)_mm512_maskz_cvtepu16_epi32(0xffff, v);
#elif defined(__AVX2__)
  return (UInt32Vector)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  typedef uint16_t Half __attribute__((vector_size(SDD_VECTOR_BYTES / 2)));
  Half v;
  memcpy(&v, p, sizeof(v));
  return __builtin_convertvector(v, UInt32Vector);
#endif
}

// The bfloat16 nearest to x, as its 16 bits in an unsigned integer of 32.
template <class T>
SDD_FN typename Real<T>::Bits float_to_bfloat16(T x) {
  using Bits = typename Real<T>::Bits;
  const Bits b = Real<T>::bits(x);
  const Bits rounded = (b + 0x7fffu + (b >> 16 & 1u)) >> 16;
  const Bits nan = b >> 16 | 0x40u;  // stays a NaN when its low bits are dropped
  return (b & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}

// The same of a float16. Below 2^-14 a float16 counts units of 2^-24, and so do the low bits of the
// sum |x| + 1/2: the addition rounds.
template <class T>
SDD_FN typename Real<T>::Bits float_to_half(T x) {
  using Bits = typename Real<T>::Bits;
  const Bits zero{};
  const Bits magnitude = Real<T>::bits(x) & 0x7fffffffu;
  const Bits sign = Real<T>::bits(x) >> 16 & 0x8000u;
  const Bits rebias = zero + (112u << 23);
  const Bits normal = (magnitude - rebias + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  const Bits subnormal = Real<T>::bits(Real<T>::from_bits(magnitude) + 0.5f) - 0x3f000000u;
  const Bits special = magnitude > 0x7f800000u ? zero + 0x7e00u : zero + 0x7c00u;
  Bits result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? special : result;  // 65520 is the first to round to infinity
  return result | sign;
}

template <class T>
struct PlainElement {
  using Stored = T;
  using Compute = T;
  using Vector = typename VectorOf<T>::type;
  SDD_FN static T value(const T* p) { return *p; }
  SDD_FN static Vector vector(const T* p) { return load(p); }
  SDD_FN static void put(T* p, T v) { *p = v; }
  SDD_FN static void put(T* p, Vector v) { memcpy(p, &v, sizeof(v)); }
};

struct Element16 {
  using Stored = uint16_t;
  using Compute = float;
  using Vector = FloatVector;
  SDD_FN static void put_bits(uint16_t* p, UInt32Vector bits) {
    typedef uint16_t Half __attribute__((vector_size(SDD_VECTOR_BYTES / 2)));
    const Half h = __builtin_convertvector(bits, Half);
    memcpy(p, &h, sizeof(h));
  }
};

struct BFloat16Element : Element16 {
  SDD_FN static float value(const uint16_t* p) { return bfloat16_to_float<float>(*p); }
  SDD_FN static Vector vector(const uint16_t* p) {
#if defined(__AVX512BW__)  // widened and shifted by one instruction
    typedef uint16_t Words __attribute__((vector_size(SDD_VECTOR_BYTES)));
    const Words upper_halves = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
    const __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)p));
    return (Vector)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)upper_halves, v);
#else
    return bfloat16_to_float<Vector>(load_widened(p));
#endif
  }
  SDD_FN static void put(uint16_t* p, float v) { *p = uint16_t(float_to_bfloat16(v)); }
  SDD_FN static void put(uint16_t* p, Vector v) { put_bits(p, float_to_bfloat16(v)); }
};

struct HalfElement : Element16 {
  SDD_FN static float value(const uint16_t* p) { return half_to_float<float>(*p); }
#if defined(__AVX512F__)
  // All lanes by a mask: GCC 12 warns of its own header where there is none.
  static constexpr __mmask16 all = 0xffff;
  SDD_FN static Vector vector(const uint16_t* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return (Vector)_mm512_maskz_cvtph_ps(all, h);
  }
  SDD_FN static void put(uint16_t* p, Vector v) {
    const __m256i h = _mm512_maskz_cvtps_ph(all, (__m512)v, 0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), h);
  }
#elif defined(__F16C__)
  SDD_FN static Vector vector(const uint16_t* p) {
    return (Vector)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  SDD_FN static void put(uint16_t* p, Vector v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, 0));
  }
#else
  SDD_FN static Vector vector(const uint16_t* p) { return half_to_float<Vector>(load_widened(p)); }
  SDD_FN static void put(uint16_t* p, Vector v) { put_bits(p, float_to_half(v)); }
#endif
  SDD_FN static void put(uint16_t* p, float v) { *p = uint16_t(float_to_half(v)); }
};

// Writes a and b, neighbors.
template <class E>
SDD_FN void put_two(typename E::Stored* p, typename E::Vector a, typename E::Vector b) {
  E::put(p, a);
  E::put(p + lanes<typename E::Compute>, b);
}
#if defined(__AVX512BW__)
// In a third of the instructions: rounded in the upper halves of the bits, which are then gathered.
// A NaN stays as it is: what arithmetic makes has the highest bit of its fraction set.
template <>
SDD_FN void put_two<BFloat16Element>(uint16_t* p, FloatVector a, FloatVector b) {
  const auto rounded = [](FloatVector v) __attribute__((always_inline)) {
    const auto bits = (__m512i)v;
    const __mmask16 number = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_ORD_Q);
    const __mmask16 odd = _mm512_mask_test_epi32_mask(number, bits, _mm512_set1_epi32(0x10000));
    const __m512i up = _mm512_mask_add_epi32(bits, number, bits, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
  };
  typedef uint16_t Words __attribute__((vector_size(SDD_VECTOR_BYTES)));
  const Words upper_halves = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                              33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i both = _mm512_permutex2var_epi16(rounded(a), (__m512i)upper_halves, rounded(b));
  _mm512_storeu_si512(p, both);
}
#endif

// Loops are written once, as a body over a vector of neighbors or over one element: a lane says
// which.
template <class E>
struct VectorLane {
  using T = typename E::Vector;
  static constexpr int64_t width = lanes<typename E::Compute>;
  SDD_FN static T read(const typename E::Stored* p) { return E::vector(p); }
  SDD_FN static T read_wide(const typename E::Compute* p) { return load(p); }
  SDD_FN static typename E::Compute sum(T v) {
    typename E::Compute total = 0;
    for (int l = 0; l < width; ++l) total += v[l];
    return total;
  }
};

template <class E>
struct OneLane {
  using T = typename E::Compute;
  static constexpr int64_t width = 1;
  SDD_FN static T read(const typename E::Stored* p) { return E::value(p); }
  SDD_FN static T read_wide(const typename E::Compute* p) { return *p; }
  SDD_FN static T sum(T v) { return v; }
};

// body(lane, i) for 0 <= i < n: vectors first, then what is left one by one.
template <class E, class Body>
SDD_FN void for_each_lane(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + VectorLane<E>::width <= n; i += VectorLane<E>::width) body(VectorLane<E>{}, i);
  for (; i < n; ++i) body(OneLane<E>{}, i);
}

// body(E{}) with the way in which `element` is stored.
template <class Body>
SDD_FN void with_element(Element element, const Body& body) {
  switch (element) {
    case Element::kFloat64:
      return body(PlainElement<double>{});
    case Element::kFloat32:
      return body(PlainElement<float>{});
    case Element::kFloat16:
      return body(HalfElement{});
    case Element::kBFloat16:
      return body(BFloat16Element{});
  }
}

// x as it is when stored and read again.
template <class E>
SDD_FN typename E::Compute as_stored(double x) {
  typename E::Stored s;
  E::put(&s, typename E::Compute(x));
  return E::value(&s);
}

}  // namespace
}  // namespace sdd
