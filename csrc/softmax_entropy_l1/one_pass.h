// A chunk in a single pass over its entries. The first of them tell a shift c, and by their
// variance the cheapest formula that can be expected to do. Sums tell afterwards whether it did: if
// not, nothing is written, and wide_chunk.h has two passes for any elements.
#pragma once

#include "../common/tiles.h"
#include "map_entries.h"
#include "softmax_entropy_l1.h"

namespace sdd {
namespace {

constexpr int kSample = 32 * lanes<float>;

struct Sample {
  float mean;
  float highest;
  double variance;
};

template <class Map>
SDD_FN Sample first_entries(const Map& map) {
  using V = FloatVector;
  constexpr int step = 2 * lanes<float>;
  const float first = map.value(0);
  V linear[2] = {}, square[2] = {}, highest = V{} + first;
  for (int64_t i = 0; i < kSample; i += step) {
    V v[2];
    map.pair(i, v);
    for (int s = 0; s < 2; ++s) {
      const V d = v[s] - first;
      linear[s] += d;
      square[s] += d * d;
      highest = v[s] > highest ? v[s] : highest;
    }
  }
  LaneSum<float> sum_linear, sum_square;
  sum_linear.add(linear[0] + linear[1]);
  sum_square.add(square[0] + square[1]);
  const double mean = sum_linear.total() / double(kSample);
  float top = first;
  for (int l = 0; l < lanes<float>; ++l) top = highest[l] > top ? highest[l] : top;
  return {first + float(mean), top, sum_square.total() / double(kSample) - mean * mean};
}

// sum |x| of the signed map; of the abs-mean map, whose entries come without their offset, sum x.
template <class Map, class V>
SDD_FN V l1_term(V v) {
  return Map::abs_mean ? v : absolute(v);
}

// Small elements, as guidance gradients are: power sums, equation (4).
template <int kOrder, class Map>
bool power_chunk(const Map& map, int64_t n, float shift, RowStats* out) {
  using V = FloatVector;
  constexpr int step = 2 * lanes<float>;
  PowerSums<V, kOrder> power[2];
  V abs_sum[2] = {};
  LaneSum<float> s1, s2, s3, s4, s5, s6, total_abs;
  const int64_t done = for_each_tile<step, 32, 2>(
      n,
      [&](int, int64_t i) {
        V v[2];
        map.pair(i, v);
        map.prefetch(i);
        for (int k = 0; k < 2; ++k) {
          power[k].add(v[k] - shift);
          if (!Map::abs_mean) abs_sum[k] += absolute(v[k]);
        }
      },
      [&] {
        s1.add(power[0].s1 + power[1].s1);
        s2.add(power[0].s2 + power[1].s2);
        s3.add(power[0].s3 + power[1].s3);
        s4.add(power[0].s4 + power[1].s4);
        if constexpr (kOrder == 6) {
          s5.add(power[0].s5 + power[1].s5);
          s6.add(power[0].s6 + power[1].s6);
        }
        if (!Map::abs_mean) total_abs.add(abs_sum[0] + abs_sum[1]);
        power[0] = power[1] = {};
        abs_sum[0] = abs_sum[1] = V{};
      });
  PowerSums<double, kOrder> sums{s1.total(), s2.total(), s3.total(),
                                 s4.total(), s5.total(), s6.total()};
  double abs_total = total_abs.total();
  for (int64_t i = done; i < n; ++i) {
    const float v = map.value(i);
    sums.add(double(v - shift));
    abs_total += double(absolute(v));
  }
  if (!series_converged(sums)) return false;
  const TermSums terms = sum_series(sums);
  const double center = map.offset + double(shift);
  finish_stats(center, terms.expm1 / double(n), terms.excess / double(n), out);
  out->l1 = Map::abs_mean ? center * double(n) + sums.s1 : abs_total;
  return true;
}

// What exp_chunk() adds up. Where D is large, e^u and u e^u do:
struct PlainTerms {
  template <class T>
  SDD_FN static ExpTerms<T> at(T u) {
    const T e = exp2_in_range(u * ExpConstants<float>::log2_e);
    return {e, u * e};
  }
  SDD_FN static bool finish(double n, double mass, double weighted, RowStats* out) {
    const double log_mean = __builtin_log(mass / n);
    *out = {log_mean, weighted / mass - log_mean, 0};
    return out->deficit > 0.1 && weighted < 8 * mass;  // or c is so low that u costs digits
  }
};
// Where it is not, expm1(u) and f(u):
struct ExactTerms {
  template <class T>
  SDD_FN static ExpTerms<T> at(T u) {
    return exp_terms_in_range(u);
  }
  SDD_FN static bool finish(double n, double expm1, double excess, RowStats* out) {
    const double a = expm1 / n, f = excess / n;
    finish_stats(0, a, f, out);
    return f <= 2 * (1 + a) * out->deficit;  // or c is too far off
  }
};

// Elements near enough to c, of any size.
template <class Terms, class Map>
bool exp_chunk(const Map& map, int64_t n, float shift, RowStats* out) {
  using V = FloatVector;
  constexpr int step = 2 * lanes<float>;
  V first[2] = {}, second[2] = {}, l1[2] = {};
  // |u| as bits: they compare as |u| does, and faster. NaN is larger than any number.
  UInt32Vector largest[2] = {};
  LaneSum<float> total_first, total_second, total_l1;
  const int64_t done = for_each_tile<step, 16, 2>(
      n,
      [&](int, int64_t i) {
        V v[2];
        map.pair(i, v);
        map.prefetch(i);
        for (int k = 0; k < 2; ++k) {
          const V u = v[k] - shift;
          const UInt32Vector size = Real<V>::bits(absolute(u));
          const ExpTerms<V> t = Terms::at(u);
          first[k] += t.expm1;
          second[k] += t.excess;
          l1[k] += l1_term<Map>(v[k]);
          largest[k] = size > largest[k] ? size : largest[k];
        }
      },
      [&] {
        total_first.add(first[0] + first[1]);
        total_second.add(second[0] + second[1]);
        total_l1.add(l1[0] + l1[1]);
        for (int k = 0; k < 2; ++k) first[k] = second[k] = l1[k] = V{};
      });
  double sum_first = total_first.total(), sum_second = total_second.total();
  double sum_l1 = total_l1.total();
  uint32_t reach = 0;
  for (int k = 0; k < 2; ++k) {
    for (int l = 0; l < lanes<float>; ++l) reach = largest[k][l] > reach ? largest[k][l] : reach;
  }
  for (int64_t i = done; i < n; ++i) {
    const float u = map.value(i) - shift;
    const ExpTerms<float> t = Terms::at(u);
    sum_first += double(t.expm1);
    sum_second += double(t.excess);
    sum_l1 += double(l1_term<Map>(map.value(i)));
    const uint32_t size = Real<float>::bits(absolute(u));
    reach = size > reach ? size : reach;
  }
  if (!(Real<float>::from_bits(reach) < -ExpConstants<float>::lowest)) return false;
  if (!Terms::finish(double(n), sum_first, sum_second, out)) return false;
  out->log_mean_exp += map.offset + double(shift);
  out->l1 = Map::abs_mean ? sum_l1 + map.offset * double(n) : sum_l1;
  return true;
}

// False where it takes two passes.
template <class Map>
bool one_pass(const Map& map, int64_t n, RowStats* out) {
  if (n < 4 * kSample) return false;
  const Sample sample = first_entries(map);
  // Bounds for normal numbers: where the series still converge, D is well above 0.1, and the
  // highest of all is not far above the highest of the sample.
  if (sample.variance < 8e-6 && power_chunk<4>(map, n, sample.mean, out)) return true;
  if (sample.variance < 0.0024 && power_chunk<6>(map, n, sample.mean, out)) return true;
  if (sample.variance < 0.3) return exp_chunk<ExactTerms>(map, n, sample.mean, out);
  if (sample.variance < 36) return exp_chunk<PlainTerms>(map, n, sample.highest, out);
  return false;
}

}  // namespace
}  // namespace sdd
