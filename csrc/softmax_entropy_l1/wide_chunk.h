// A chunk of any elements in two passes: its range, which chooses the shift c, then the sums.
#pragma once

#include "../common/tiles.h"
#include "softmax_entropy_l1.h"
#include "softmax_entropy_l1_kernel.h"

namespace sdd {
namespace {

constexpr int kTile = 32;    // vectors per tile
constexpr int kStreams = 4;  // independent sums
constexpr double kInfinity = __builtin_inf();

template <class T>
struct Moments {
  double sum;
  double abs_sum;
  T lowest;
  T highest;
};

template <class T>
Moments<T> moments(const T* x, int64_t n) {
  using V = Vector<T>;
  V sum[kStreams] = {}, abs_sum[kStreams] = {}, low[kStreams], high[kStreams];
  for (int s = 0; s < kStreams; ++s) low[s] = high[s] = V{} + x[0];
  LaneSum<T> total_sum, total_abs;
  const int64_t done = for_each_tile<lanes<T>, kTile, kStreams>(
      n,
      [&](int s, int64_t i) {
        const V v = load(x + i);
        sum[s] += v;
        abs_sum[s] += absolute(v);
        low[s] = v < low[s] ? v : low[s];
        high[s] = v > high[s] ? v : high[s];
      },
      [&] {
        total_sum.add((sum[0] + sum[1]) + (sum[2] + sum[3]));
        total_abs.add((abs_sum[0] + abs_sum[1]) + (abs_sum[2] + abs_sum[3]));
        for (int s = 0; s < kStreams; ++s) sum[s] = abs_sum[s] = V{};
      });
  Moments<T> m{total_sum.total(), total_abs.total(), x[0], x[0]};
  for (int s = 0; s < kStreams; ++s) {
    for (int l = 0; l < lanes<T>; ++l) {
      m.lowest = low[s][l] < m.lowest ? low[s][l] : m.lowest;
      m.highest = high[s][l] > m.highest ? high[s][l] : m.highest;
    }
  }
  for (int64_t i = done; i < n; ++i) {
    m.sum += double(x[i]);
    m.abs_sum += double(absolute(x[i]));
    m.lowest = x[i] < m.lowest ? x[i] : m.lowest;
    m.highest = x[i] > m.highest ? x[i] : m.highest;
  }
  return m;
}

struct PlainSums {
  double mass;      // sum of e^(x - c)
  double weighted;  // sum of (x - c) e^(x - c)
};

// With c = highest nothing overflows; kClamp where u may fall below the range of exp_in_range().
template <bool kClamp, class T>
PlainSums plain_sums(const T* x, int64_t n, T highest) {
  using V = Vector<T>;
  const auto clamped = [](auto u) { return kClamp ? clamp_exponent(u) : u; };
  V mass[kStreams] = {}, weighted[kStreams] = {};
  LaneSum<T> total_mass, total_weighted;
  const int64_t done = for_each_tile<lanes<T>, kTile, kStreams>(
      n,
      [&](int s, int64_t i) {
        __builtin_prefetch(x + i + kEntropyChunk);  // the next chunk
        const V u = clamped(load(x + i) - highest);
        const V e = exp_in_range(u);
        mass[s] += e;
        weighted[s] += u * e;
      },
      [&] {
        total_mass.add((mass[0] + mass[1]) + (mass[2] + mass[3]));
        total_weighted.add((weighted[0] + weighted[1]) + (weighted[2] + weighted[3]));
        for (int s = 0; s < kStreams; ++s) mass[s] = weighted[s] = V{};
      });
  PlainSums sums{total_mass.total(), total_weighted.total()};
  for (int64_t i = done; i < n; ++i) {
    const T u = clamped(x[i] - highest);
    const T e = exp_in_range(u);
    sums.mass += double(e);
    sums.weighted += double(u * e);
  }
  return sums;
}

template <class T>
TermSums shifted_sums(const T* x, int64_t n, T shift) {
  using V = Vector<T>;
  V expm1[kStreams] = {}, excess[kStreams] = {};
  LaneSum<T> total_expm1, total_excess;
  const int64_t done = for_each_tile<lanes<T>, kTile, kStreams>(
      n,
      [&](int s, int64_t i) {
        __builtin_prefetch(x + i + kEntropyChunk);  // the next chunk
        const ExpTerms<V> t = exp_terms<V>(load(x + i) - shift);
        expm1[s] += t.expm1;
        excess[s] += t.excess;
      },
      [&] {
        total_expm1.add((expm1[0] + expm1[1]) + (expm1[2] + expm1[3]));
        total_excess.add((excess[0] + excess[1]) + (excess[2] + excess[3]));
        for (int s = 0; s < kStreams; ++s) expm1[s] = excess[s] = V{};
      });
  TermSums sums{total_expm1.total(), total_excess.total()};
  for (int64_t i = done; i < n; ++i) {
    const ExpTerms<T> t = exp_terms<T>(x[i] - shift);
    sums.expm1 += double(t.expm1);
    sums.excess += double(t.excess);
  }
  return sums;
}

// What the elements of a chunk are: entries of the signed map as they are, or entries of the
// non-negative abs-mean map minus `offset`.
struct Origin {
  bool abs_mean = false;
  double offset = 0;
  SDD_FN double l1(double sum, double abs_sum, int64_t n) const {
    return abs_mean ? sum + double(n) * offset : abs_sum;
  }
};

// The rare chunk whose sum of |x| is not finite: NaN, infinities, or elements near the end of the
// range of T. Scalar float64, one element at a time.
template <class T>
void extreme_chunk(const T* x, int64_t n, Origin origin, RowStats* out) {
  double sum = 0, abs_sum = 0, highest = -kInfinity;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    const double v = double(x[i]);
    sum += v;
    abs_sum += absolute(v);
    highest = v > highest ? v : highest;
    finite = finite && absolute(v) < kInfinity;
  }
  const double l1 = origin.l1(sum, abs_sum, n);
  if (!finite) {
    *out = {__builtin_nan(""), __builtin_nan(""), l1};
    return;
  }
  double mass = 0;
  for (int64_t i = 0; i < n; ++i) mass += exp_in_range(clamp_exponent(double(x[i]) - highest));
  const double shift = highest + __builtin_log(mass / double(n));
  double a = 0, f = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto t = exp_terms<double>(double(x[i]) - shift);
    a += t.expm1;
    f += t.excess;
  }
  finish_stats(origin.offset + shift, a / double(n), f / double(n), out);
  out->l1 = l1;
}

// Any chunk.
template <class T>
void wide_chunk(const T* x, int64_t n, Origin origin, RowStats* out) {
  const Moments<T> m = moments(x, n);
  if (!(m.abs_sum < kInfinity)) return extreme_chunk(x, n, origin, out);
  const double l1 = origin.l1(m.sum, m.abs_sum, n);
  T shift = T(m.sum / double(n));
  shift = shift < m.lowest ? m.lowest : shift > m.highest ? m.highest : shift;
  if (!(m.highest - shift <= T(1.5) && shift - m.lowest <= T(20))) {
    // Far from uniform, as a rule: then D is large and the textbook form of it exact enough.
    const bool wide = !(m.lowest - m.highest > ExpConstants<T>::lowest);
    const PlainSums plain =
        wide ? plain_sums<true>(x, n, m.highest) : plain_sums<false>(x, n, m.highest);
    const double log_mean = __builtin_log(plain.mass / double(n));
    const double deficit = plain.weighted / plain.mass - log_mean;
    if (deficit > 0.1) {
      *out = {origin.offset + double(m.highest) + log_mean, deficit, l1};
      return;
    }
    shift = m.highest + T(log_mean);  // a few outliers: the best shift there is
  }
  const TermSums sums = shifted_sums(x, n, shift);
  finish_stats(origin.offset + double(shift), sums.expm1 / double(n), sums.excess / double(n), out);
  out->l1 = l1;
}

}  // namespace
}  // namespace sdd
