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

// K: number of terms where it is known (outer = 1), else 0.
template <int K, class From>
SDD_FN typename From::Vector sum_vector(const typename From::Stored* x,
                                        const Terms<typename From::Compute>& t) {
  if constexpr (K > 0) {
    typename From::Vector sum = t.weight[0] * From::vector(x);
    for (int j = 1; j < K; ++j) sum += t.weight[j] * From::vector(x + j * t.inner_stride);
    return sum;
  } else {
    typename From::Vector sum{};
    for (int64_t r = 0; r < t.outer; ++r) {
      const auto* row = x + r * t.outer_stride;
      const auto* weight = t.weight + r * t.weight_stride;
      for (int64_t j = 0; j < t.inner; ++j) {
        sum += weight[j] * From::vector(row + j * t.inner_stride);
      }
    }
    return sum;
  }
}

template <class From>
SDD_FN typename From::Compute sum_scalar(const typename From::Stored* x,
                                         const Terms<typename From::Compute>& t) {
  typename From::Compute sum{};
  for (int64_t r = 0; r < t.outer; ++r) {
    const auto* row = x + r * t.outer_stride;
    const auto* weight = t.weight + r * t.weight_stride;
    for (int64_t j = 0; j < t.inner; ++j) sum += weight[j] * From::value(row + j * t.inner_stride);
  }
  return sum;
}

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
SDD_FN void sum_run(typename To::Stored* y, const typename From::Stored* x,
                    const Terms<typename From::Compute>& t, int64_t n) {
  constexpr int64_t width = lanes<typename From::Compute>;
  if (n < width) {
    for (int64_t i = 0; i < n; ++i) To::put(&y[i], sum_scalar<From>(x + i, t));
    return;
  }
  int64_t i = 0;
  for (; i + width <= n; i += width) To::put(y + i, sum_vector<K, From>(x + i, t));
  if (i < n) To::put(y + n - width, sum_vector<K, From>(x + n - width, t));
}

// Twice as many outputs as inputs: even ones by one set of taps, odd ones by another, n in all.
template <int K, class From, class To>
SDD_FN void sum_up2(typename To::Stored* y, const typename From::Stored* even,
                    const Terms<typename From::Compute>& even_terms,
                    const typename From::Stored* odd,
                    const Terms<typename From::Compute>& odd_terms, int64_t n) {
  using T = typename From::Compute;
  using Lanes = Shuffle<T>;
  constexpr int64_t width = lanes<T>;
  const int64_t pairs = n / 2;
  const auto vectors = [&](int64_t i) __attribute__((always_inline)) {
    const auto a = sum_vector<K, From>(even + i, even_terms);
    const auto b = sum_vector<K, From>(odd + i, odd_terms);
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
    To::put(&y[2 * i], sum_scalar<From>(even + i, even_terms));
    To::put(&y[2 * i + 1], sum_scalar<From>(odd + i, odd_terms));
  }
  if (n % 2) To::put(&y[n - 1], sum_scalar<From>(even + pairs, even_terms));
}

// One output for every second input. The vectors read up to one number behind the last window.
template <int K, class From, class To>
SDD_FN void sum_down2(typename To::Stored* y, const typename From::Stored* x,
                      const Terms<typename From::Compute>& t, int64_t n) {
  using T = typename From::Compute;
  using Lanes = Shuffle<T>;
  constexpr int64_t width = lanes<T>;
  const int64_t inner = K > 0 ? K : t.inner;
  const auto vector = [&](int64_t i) __attribute__((always_inline)) {
    typename From::Vector sum{};
    for (int64_t r = 0; r < (K > 0 ? 1 : t.outer); ++r) {
      const auto* row = x + 2 * i + r * t.outer_stride;
      const T* weight = t.weight + r * t.weight_stride;
      for (int64_t j = 0; j < inner; j += 2) {
        const auto a = From::vector(row + j), b = From::vector(row + j + width);
        sum += weight[j] * Lanes::even(a, b);
        if (j + 1 < inner) sum += weight[j + 1] * Lanes::odd(a, b);
      }
    }
    To::put(y + i, sum);
  };
  if (n < width) {
    for (int64_t i = 0; i < n; ++i) To::put(&y[i], sum_scalar<From>(x + 2 * i, t));
    return;
  }
  int64_t i = 0;
  for (; i + width <= n; i += width) vector(i);
  if (i < n) vector(n - width);
}

}  // namespace
}  // namespace sdd
