// Elements as they are stored in GPU memory, what is computed with, and packs of neighbors that are
// read and written at once, 16 bytes where alignment allows. The device's twin of elements.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "element.h"
#include "launch.h"
#include "real.h"

namespace sdd {
namespace {

template <class Stored>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class Stored>
using Compute = typename ComputeOf<Stored>::type;

// Written out: implicit conversions of the 16-bit types are switched off in some builds.
SDD_FN double widened(double x) { return x; }
SDD_FN float widened(float x) { return x; }
SDD_FN float widened(__half x) { return __half2float(x); }
SDD_FN float widened(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class Stored>
SDD_FN Stored narrowed(Compute<Stored> x);
template <>
SDD_FN double narrowed<double>(double x) {
  return x;
}
template <>
SDD_FN float narrowed<float>(float x) {
  return x;
}
template <>
SDD_FN __half narrowed<__half>(float x) {
  return __float2half_rn(x);
}
template <>
SDD_FN __nv_bfloat16 narrowed<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// x as it is when stored and read again.
template <class Stored>
SDD_FN Compute<Stored> as_stored(double x) {
  return widened(narrowed<Stored>(Compute<Stored>(x)));
}

// Elements whose type is told at run time, of those that C computes for: small tensors.
template <class C>
struct AnyElements {
  const void* values;
  Element element;

  SDD_FN C operator[](int64_t i) const {
    if constexpr (sizeof(C) == sizeof(double)) {
      return static_cast<const double*>(values)[i];
    } else if (element == Element::kFloat32) {
      return static_cast<const float*>(values)[i];
    } else if (element == Element::kFloat16) {
      return widened(static_cast<const __half*>(values)[i]);
    } else {
      return widened(static_cast<const __nv_bfloat16*>(values)[i]);
    }
  }
};

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
  SDD_FN T& operator[](int i) { return values[i]; }
  SDD_FN const T& operator[](int i) const { return values[i]; }
};

constexpr int kPackBytes = 16;

// Neighbors in a pack of 16 bytes.
template <class Stored>
constexpr int kPack = kPackBytes / int(sizeof(Stored));

template <int N, class Stored>
SDD_FN Pack<Stored, N> load_pack(const Stored* p) {
  return *reinterpret_cast<const Pack<Stored, N>*>(p);
}

template <int N, class Stored>
SDD_FN void store_pack(Stored* p, const Pack<Stored, N>& pack) {
  *reinterpret_cast<Pack<Stored, N>*>(p) = pack;
}

// The same by one instruction, where the compiler would store an element or two at a time: it does
// so in loops in which an earlier store lies behind a condition. It takes registers. To global
// memory, and not read again by the kernel, as the compiler does not see what is written.
template <int N, class Stored>
SDD_FN void store_at_once(Stored* p, const Pack<Stored, N>& pack) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(pack) == 16) {
    const uint4 w = __builtin_bit_cast(uint4, pack);
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(w.x), "r"(w.y), "r"(w.z),
                 "r"(w.w));
    return;
  } else if constexpr (sizeof(pack) == 8) {
    const uint2 w = __builtin_bit_cast(uint2, pack);
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(w.x), "r"(w.y));
    return;
  }
#endif
  store_pack(p, pack);
}

template <class... Pointers>
bool aligned_for_packs(Pointers... pointers) {
  return (reinterpret_cast<uintptr_t>(static_cast<const void*>(pointers)) | ...) % kPackBytes == 0;
}

// body(Stored{}) with the type of an element.
template <class Body>
void with_element(Element element, const Body& body) {
  switch (element) {
    case Element::kFloat64:
      return body(double{});
    case Element::kFloat32:
      return body(float{});
    case Element::kFloat16:
      return body(__half{});
    case Element::kBFloat16:
      return body(__nv_bfloat16{});
  }
}

}  // namespace
}  // namespace sdd
