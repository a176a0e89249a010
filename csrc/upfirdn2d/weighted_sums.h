// What all paths of the upfirdn2d kernel come down to: sums of few weighted numbers at equal
// distances, for a run of neighbouring outputs at a time.
#pragma once

#include "../common/elements.h"
#include "../common/shuffle.h"

namespace sdd {
namespace {

// sum_{r < outer} sum_{j < inner} weight[r, j] x[r outer_stride + j inner_stride]
template <class T>
struct Terms {
  const T* weight;
  int64_t outer, weight_stride, outer_stride;
  int64_t inner, inner_stride;
};

// The sum as a function of x: of one number or of a vector of neighbours. K: the number of terms
// where it is known (outer = 1), else 0. The weights of so few terms are kept in registers; read
// from memory they would be read again after every store, which might have changed them.
template <int K, class From>
struct Sum {
  using T = typename From::Compute;
  using V = typename From::Vector;
  using Stored = typename From::Stored;
  const Terms<T> terms;
  T weight[K > 0 ? K : 1];

  SDD_FN explicit Sum(const Terms<T>& t) : terms(t) {
    for (int j = 0; j < K; ++j) weight[j] = t.weight[j];
  }

  SDD_FN V vector(const Stored* x) const {
    return of<V>(x, [](const Stored* p) { return From::vector(p); });
  }
  SDD_FN T scalar(const Stored* x) const {
    return of<T>(x, [](const Stored* p) { return From::value(p); });
  }

 private:
  template <class Number, class Read>
  SDD_FN Number of(const Stored* x, const Read& read) const {
    Number sum{};
    if constexpr (K > 0) {
      for (int j = 0; j < K; ++j) sum += weight[j] * read(x + j * terms.inner_stride);
    } else {
      for (int64_t r = 0; r < terms.outer; ++r) {
        const Stored* row = x + r * terms.outer_stride;
        const T* row_weight = terms.weight + r * terms.weight_stride;
        for (int64_t j = 0; j < terms.inner; ++j) {
          sum += row_weight[j] * read(row + j * terms.inner_stride);
        }
      }
    }
    return sum;
  }
};

// Calls body(k) with the number of terms as a constant k(), 0 for any.
template <int K>
struct Count {
  static constexpr int value = K;
};
template <class T, class Body>
SDD_FN void with_count(const Terms<T>& t, const Body& body) {
  const int64_t count = t.outer == 1 ? t.inner : 0;
  if (count == 4) return body(Count<4>{});
  if (count == 2) return body(Count<2>{});
  if (count == 1) return body(Count<1>{});
  if (count == 3) return body(Count<3>{});
  return body(Count<0>{});
}

// y[i] = the sum at x + i, for i < n. The last vector overlaps the one before.
template <int K, class From, class To>
SDD_FN void sum_run(typename To::Stored* y, const typename From::Stored* x, const Sum<K, From>& sum,
                    int64_t n) {
  constexpr int64_t width = lanes<typename From::Compute>;
  if (n < width) {
    for (int64_t i = 0; i < n; ++i) To::put(y + i, sum.scalar(x + i));
    return;
  }
  int64_t i = 0;
  for (; i + width <= n; i += width) To::put(y + i, sum.vector(x + i));
  if (i < n) To::put(y + n - width, sum.vector(x + n - width));
}

// Twice as many outputs as inputs: even ones by one set of taps, odd ones by another, n in all.
template <int K, class From, class To>
SDD_FN void sum_up2(typename To::Stored* y, const typename From::Stored* even,
                    const Sum<K, From>& even_sum, const typename From::Stored* odd,
                    const Sum<K, From>& odd_sum, int64_t n) {
  using Lanes = Shuffle<typename From::Compute>;
  constexpr int64_t width = Lanes::width;
  const int64_t pairs = n / 2;
  const auto vectors = [&](int64_t i) __attribute__((always_inline)) {
    const auto a = even_sum.vector(even + i);
    const auto b = odd_sum.vector(odd + i);
    To::put(y + 2 * i, Lanes::zip_low(a, b));
    To::put(y + 2 * i + width, Lanes::zip_high(a, b));
  };
  int64_t i = 0;
  for (; i + width <= pairs; i += width) vectors(i);
  if (i < pairs && pairs >= width) {
    vectors(pairs - width);
    i = pairs;
  }
  for (; i < pairs; ++i) {
    To::put(y + 2 * i, even_sum.scalar(even + i));
    To::put(y + 2 * i + 1, odd_sum.scalar(odd + i));
  }
  if (n % 2) To::put(y + n - 1, even_sum.scalar(even + pairs));
}

// One output for every second input. The vectors read up to one number behind the last window.
template <int K, class From, class To>
SDD_FN void sum_down2(typename To::Stored* y, const typename From::Stored* x,
                      const Sum<K, From>& sum, int64_t n) {
  using T = typename From::Compute;
  using Lanes = Shuffle<T>;
  constexpr int64_t width = Lanes::width;
  const Terms<T>& t = sum.terms;
  const auto vector = [&](int64_t i) __attribute__((always_inline)) {
    typename From::Vector total{};
    const auto add = [&](const typename From::Stored* from, const T* weight, int64_t j,
                         int64_t count) __attribute__((always_inline)) {
      const auto a = From::vector(from + j), b = From::vector(from + j + width);
      total += weight[j] * Lanes::even(a, b);
      if (j + 1 < count) total += weight[j + 1] * Lanes::odd(a, b);
    };
    if constexpr (K > 0) {
      for (int j = 0; j < K; j += 2) add(x + 2 * i, sum.weight, j, K);
    } else {
      for (int64_t r = 0; r < t.outer; ++r) {
        const auto* row = x + 2 * i + r * t.outer_stride;
        for (int64_t j = 0; j < t.inner; j += 2) {
          add(row, t.weight + r * t.weight_stride, j, t.inner);
        }
      }
    }
    To::put(y + i, total);
  };
  if (n < width) {
    for (int64_t i = 0; i < n; ++i) To::put(y + i, sum.scalar(x + 2 * i));
    return;
  }
  int64_t i = 0;
  for (; i + width <= n; i += width) vector(i);
  if (i < n) vector(n - width);
}

}  // namespace
}  // namespace sdd
