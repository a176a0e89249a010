// Vectors that trade lanes: pairs zipped and split, square blocks transposed.
#pragma once

#include "simd.h"

#if defined(__clang__)
#define SDD_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SDD_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Mask{__VA_ARGS__})
#endif

namespace sdd {
namespace {

template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};  // 0 ... N - 1
template <int... I>
struct MakeIndices<0, I...> {
  using type = Indices<I...>;
};

template <class Scalar, class I = typename MakeIndices<lanes<Scalar>>::type>
struct Shuffle;

template <class Scalar, int... I>
struct Shuffle<Scalar, Indices<I...>> {
  using V = typename VectorOf<Scalar>::type;
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

  // row[i][j] <-> row[j][i]. Zipping the halves moves one bit of the row's number to the end of the
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
