// One chunk of one row on the CPU; compiled once per instruction set (SDD_ISA names the copy).
//
// Guidance gradients are small numbers, whose chunks need a single pass (power sums). Any other
// chunk stays in cache for two: its range, which chooses the shift c, then the sums themselves.
// Elements are float32, or float64 for float64 input; a tile of at most 32 vectors is summed in
// that precision, everything above it in float64. Formulas: softmax_entropy_l1.h.
#include "softmax_entropy_l1_kernel.h"

#include "../common/simd.h"
#include "softmax_entropy_l1.h"

namespace sdd {
namespace {

constexpr int kTile = 32;            // vectors per tile
constexpr int kStreams = 4;          // independent sums, to hide the latency of an addition
constexpr int64_t kPrefetch = 4096;  // numbers ahead: keeps the memory busy from one core
constexpr double kInfinity = __builtin_inf();

template <class T>
using Vector = typename VectorOf<T>::type;

// How numbers lie in memory: one of them, and a vector of neighbours.
template <class T>
struct Plain {
  using Stored = T;
  SDD_FN static T value(T v) { return v; }
  SDD_FN static Vector<T> vector(const T* p) { return load(p); }
};
struct FromBFloat16 {
  using Stored = uint16_t;
  SDD_FN static float value(uint16_t v) { return bfloat16_to_float<float>(v); }
  SDD_FN static FloatVector vector(const uint16_t* p) {
    return bfloat16_to_float<FloatVector>(load_widened(p));
  }
};
struct FromHalf {
  using Stored = uint16_t;
  SDD_FN static float value(uint16_t v) { return half_to_float<float>(v); }
  SDD_FN static FloatVector vector(const uint16_t* p) {
    return half_to_float<FloatVector>(load_widened(p));
  }
};

// Lane-wise float64 sum of vectors that arrive tile by tile.
template <class T>
struct LaneSum {
  double lane[lanes<T>] = {};
  SDD_FN void add(Vector<T> v) {
    T value[lanes<T>];
    memcpy(value, &v, sizeof(v));
    for (int l = 0; l < lanes<T>; ++l) lane[l] += double(value[l]);
  }
  SDD_FN double total() const {
    double sum = 0;
    for (int l = 0; l < lanes<T>; ++l) sum += lane[l];
    return sum;
  }
};

// Calls body(stream, vector) for x[0 .. n) in tiles and flush() after each tile; returns how many
// elements were consumed. The rest, fewer than one vector, is the caller's.
template <class T, int Tile = kTile, class Stored, class Body, class Flush>
SDD_FN int64_t for_each_tile(const Stored* x, int64_t n, const Body& body, const Flush& flush) {
  constexpr int64_t width = lanes<T>;
  int64_t i = 0;
  for (; i + Tile * width <= n; i += Tile * width) {
    for (int v = 0; v < Tile; v += kStreams) {
      for (int s = 0; s < kStreams; ++s) body(s, x + i + (v + s) * width);
    }
    flush();
  }
  if (i + width <= n) {
    for (; i + width <= n; i += width) body(0, x + i);
    flush();
  }
  return i;
}

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
  const int64_t done = for_each_tile<T>(
      x, n,
      [&](int s, const T* p) {
        const V v = load(p);
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
  const int64_t done = for_each_tile<T>(
      x, n,
      [&](int s, const T* p) {
        __builtin_prefetch(p + kEntropyChunk);  // the next chunk
        const V u = clamped(load(p) - highest);
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
  const int64_t done = for_each_tile<T>(
      x, n,
      [&](int s, const T* p) {
        __builtin_prefetch(p + kEntropyChunk);  // the next chunk
        const ExpTerms<V> t = exp_terms<V>(load(p) - shift);
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

// What the numbers of a chunk are: entries of the signed map as they are, or entries of the
// non-negative abs-mean map minus `offset`.
struct Origin {
  bool abs_mean = false;
  double offset = 0;
  SDD_FN double l1(double sum, double abs_sum, int64_t n) const {
    return abs_mean ? sum + double(n) * offset : abs_sum;
  }
};

// The rare chunk whose sum of |x| is not finite: NaN, infinities, or numbers near the end of the
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

// Small numbers, as guidance gradients are, in a single pass: power sums around the mean of the
// first ones. False, with nothing written, when the numbers turn out not to be small enough.
template <class From>
bool small_chunk(const typename From::Stored* x, int64_t n, Origin origin, RowStats* out) {
  using V = FloatVector;
  constexpr int width = lanes<float>;
  constexpr int64_t sample = kTile * width;
  if (n < 4 * sample) return false;
  // The mean and the variance of a sample, both relative to its first number.
  const float first = From::value(x[0]);
  V linear[kStreams] = {}, square[kStreams] = {};
  for (int64_t i = 0; i < sample; i += kStreams * width) {
    for (int s = 0; s < kStreams; ++s) {
      const V d = From::vector(x + i + s * width) - first;
      linear[s] += d;
      square[s] += d * d;
    }
  }
  LaneSum<float> sum_linear, sum_square;
  sum_linear.add((linear[0] + linear[1]) + (linear[2] + linear[3]));
  sum_square.add((square[0] + square[1]) + (square[2] + square[3]));
  const double mean = sum_linear.total() / double(sample);
  const double variance = sum_square.total() / double(sample) - mean * mean;
  if (!(variance < 0.005)) return false;  // spares most other chunks the attempt
  const float shift = first + float(mean);

  PowerSums<V> power[2];
  V abs_sum[2] = {};
  LaneSum<float> s1, s2, s3, s4, s5, s6, total_abs;
  const int64_t done = for_each_tile<float, 2 * kTile>(
      x, n,
      [&](int s, const typename From::Stored* p) {
        const V v = From::vector(p);
        __builtin_prefetch(p + kPrefetch);
        power[s % 2].add(v - shift);
        abs_sum[s % 2] += absolute(v);
      },
      [&] {
        s1.add(power[0].s1 + power[1].s1);
        s2.add(power[0].s2 + power[1].s2);
        s3.add(power[0].s3 + power[1].s3);
        s4.add(power[0].s4 + power[1].s4);
        s5.add(power[0].s5 + power[1].s5);
        s6.add(power[0].s6 + power[1].s6);
        total_abs.add(abs_sum[0] + abs_sum[1]);
        power[0] = power[1] = {};
        abs_sum[0] = abs_sum[1] = V{};
      });
  PowerSums<double> sums{s1.total(), s2.total(), s3.total(), s4.total(), s5.total(), s6.total()};
  double abs_total = total_abs.total();
  for (int64_t i = done; i < n; ++i) {
    const float v = From::value(x[i]);
    sums.add(double(v - shift));
    abs_total += double(absolute(v));
  }
  if (!series_converged(sums)) return false;
  const TermSums terms = sum_series(sums);
  finish_stats(origin.offset + double(shift), terms.expm1 / double(n), terms.excess / double(n),
               out);
  out->l1 = origin.l1(double(shift) * double(n) + sums.s1, abs_total, n);
  return true;
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

// The map mean_c |x_c|, minus an offset near its values: what |x_c| has in common must not cost
// the sum its precision.
template <class From, class T>
void abs_mean_chunk(const EntropyChunk& c, RowStats* out) {
  alignas(64) T map[kEntropyChunk];
  const T inverse = T(1) / T(c.channels);
  double offset = 0;
  for (int64_t i = 0; i < c.count; ++i) map[i] = 0;
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    const auto* x = static_cast<const typename From::Stored*>(c.data) + channel * c.channel_stride;
    const T first = absolute(T(From::value(x[0])));
    const T near = first < T(kInfinity) ? first : T(0);
    offset += double(near) / double(c.channels);
    for (int64_t i = 0; i < c.count; ++i) {
      map[i] += (absolute(T(From::value(x[i]))) - near) * inverse;
    }
  }
  const Origin origin{true, offset};
  if constexpr (sizeof(T) == 4) {
    if (small_chunk<Plain<T>>(map, c.count, origin, out)) return;
  }
  wide_chunk(map, c.count, origin, out);
}

template <class From, class T>
void signed_chunk(const EntropyChunk& c, RowStats* out) {
  const auto* x = static_cast<const typename From::Stored*>(c.data);
  if constexpr (sizeof(T) == 4) {
    if (small_chunk<From>(x, c.count, {}, out)) return;
  }
  if constexpr (sizeof(x[0]) == sizeof(T)) {
    wide_chunk(x, c.count, {}, out);
  } else {
    alignas(64) T map[kEntropyChunk];
    for (int64_t i = 0; i < c.count; ++i) map[i] = From::value(x[i]);
    wide_chunk(map, c.count, {}, out);
  }
}

template <class From, class T>
void any_chunk(const EntropyChunk& c, RowStats* out) {
  if (c.channels > 0) {
    abs_mean_chunk<From, T>(c, out);
  } else {
    signed_chunk<From, T>(c, out);
  }
}

}  // namespace

#define SDD_JOIN_(a, b) a##b
#define SDD_JOIN(a, b) SDD_JOIN_(a, b)

void SDD_JOIN(entropy_chunk_, SDD_ISA)(const EntropyChunk& c, RowStats* out) {
  switch (c.element) {
    case Element::kFloat64:
      return any_chunk<Plain<double>, double>(c, out);
    case Element::kFloat32:
      return any_chunk<Plain<float>, float>(c, out);
    case Element::kFloat16:
      return any_chunk<FromHalf, float>(c, out);
    case Element::kBFloat16:
      return any_chunk<FromBFloat16, float>(c, out);
  }
}

}  // namespace sdd
