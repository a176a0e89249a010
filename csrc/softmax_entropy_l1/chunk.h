// A chunk of a row, on CPUs and GPUs alike: what is added up of its entries, by which formula and
// about which shift, whether that can be trusted, and how the chunks of a row become its results.
//
//   row      n neighboring entries of a map
//   chunk    a run of them: what a CPU thread takes at a time, and a block of a GPU
//   partial  the sums of a chunk, about a shift of its own: all that is left of it in memory
//   step     one look at all entries of a chunk, which are in a cache or in registers by then:
//
//     kSample ─ small variance ─► kPower4, kPower6 ─ converged ────────┐
//        │ └─── larger ─────────► kExact, kPlain ─── exact enough ─────┤
//        └─ else, or not ─► kMoments ─ narrow ─► kExact ───────────────┼─► partial ─┐
//                              └─ wide ─► kPlain ─ D > 0.1 ────────────┤   partial ─┼─► merge of
//                                            └─ few outliers ─► kExact ┘   partial ─┘   the row
//
// The upper two lines are trials: a few entries suggest a formula and a shift, and the sums tell
// whether that was right. Elements of float64 have none, as the bounds are those of float32.
// Formulas: softmax_entropy_l1.h.
#pragma once

#include "softmax_entropy_l1_kernel.h"

namespace sdd {

// With u = x - offset - shift.
struct alignas(16) Partial {
  double offset;  // apart: it may be so large that it would cost the shift its digits
  double shift;   // near log mean e^(x - offset)
  double count;   // entries
  double expm1;   // sum of expm1(u)
  double excess;  // sum of f(u)
  double l1;      // sum of |x|
};

namespace {

constexpr double kInfinity = __builtin_inf();

// --- What a step adds up, besides the L1 norm in sums[0] ----------------------------------------
// T: a vector of entries, relative to the shift, or one of them.

template <class T>
SDD_FN void add_sample(T u, T (&sums)[2]) {
  sums[0] += u;
  sums[1] += u * u;
}

// s_1 ... of (4)
template <int kOrder, class T>
SDD_FN void add_powers(T u, T (&sums)[kOrder + 1]) {
  const T u2 = u * u, u3 = u * u2;
  sums[1] += u;
  sums[2] += u2;
  sums[3] += u3;
  sums[4] += u2 * u2;
  if constexpr (kOrder == 6) {
    sums[5] += u2 * u3;
    sums[6] += u3 * u3;
  }
}

// u where e^u neither over- nor underflows; beyond, the ends of that range.
template <class T>
SDD_FN T clamp_both(T u) {
  return Real<T>::smaller(clamp_exponent(u), T{} - ExpConstants<ScalarOf<T>>::lowest);
}

// expm1(u) and f(u)
template <class T>
SDD_FN void add_exact(T u, T (&sums)[3]) {
  const ExpTerms<T> t = exp_terms_in_range(clamp_both(u));
  sums[1] += t.expm1;
  sums[2] += t.excess;
}

// e^u and u e^u
template <class T>
SDD_FN void add_plain(T u, T (&sums)[3]) {
  u = clamp_both(u);
  const T e = exp_in_range(u);
  sums[1] += e;
  sums[2] += u * e;
}

// --- What follows from the sums -----------------------------------------------------------------

enum class Step { kSample, kPower4, kPower6, kExact, kPlain, kMoments, kWideMoments, kDone };

// Whether the first term that (4) leaves out is below 1e-7 of the sum: |s_5| / 30 <= s_4 max|u| /
// 30 or |s_7| / 840 <= s_6 max|u| / 840, where max|u| is at most the fourth root of s_4, the sixth
// of s_6. With 2^14 elements or fewer that implies |u| < 1.2, so that the rest of the series is no
// larger. Raised to a power that leaves no roots. False for NaN, and for sums beyond the range.
template <int kOrder>
SDD_FN bool series_converged(const double* s) {
  const double sum = 1e-7 / 2 * s[2], highest = s[kOrder];
  const double left_out = highest * (kOrder == 4 ? 1. / 30 : 1. / 840);
  const double sum2 = sum * sum, left_out2 = left_out * left_out;
  if (highest == 0) return true;
  if constexpr (kOrder == 4) return left_out2 * left_out2 * highest < sum2 * sum2;
  return left_out2 * left_out2 * left_out2 * highest < sum2 * sum2 * sum2;
}

// How the sums of one step lead to the next one, and at last to the partial.
template <class T>
struct Chunk {
  double count;
  double offset;  // what the entries lack
  bool abs_mean;
  Step step;
  T shift;     // of the step
  bool trial;  // shift and formula come from the sample
  double l1, highest;
  Partial partial;

  SDD_FN void go(Step next, T at) {
    step = next;
    shift = at;
  }
  SDD_FN void finish(double center, double expm1, double excess) {
    partial = {offset, center, count, expm1, excess, abs_mean ? l1 + count * offset : l1};
    step = Step::kDone;
  }
  SDD_FN void without_trial() {
    trial = false;
    step = Step::kMoments;
  }

  // Bounds for normal numbers: where the series still converge, and where D is well above 0.1.
  SDD_FN void sampled(const double* sums, int entries) {
    const T mean = T(sums[0]) / T(entries);
    const T variance = T(sums[1]) / T(entries) - mean * mean;
    const T center = shift + mean;
    if (variance < T(8e-6)) return go(Step::kPower4, center);
    if (variance < T(0.0024)) return go(Step::kPower6, center);
    if (variance < T(0.3)) return go(Step::kExact, center);
    if (variance < T(36)) return go(Step::kPlain, center + variance);  // E[u e^u] is small there
    without_trial();
  }

  // Equation (4).
  template <int kOrder>
  SDD_FN void power(const double* s) {
    const bool near_mean = s[1] * s[1] <= 0.5 * count * s[2];
    if (!near_mean || !series_converged<kOrder>(s)) return without_trial();
    const double s5 = kOrder == 6 ? s[5] : 0, s6 = kOrder == 6 ? s[6] : 0;
    l1 = s[0];
    finish(double(shift),
           s[1] + s[2] * (1. / 2) + s[3] * (1. / 6) + s[4] * (1. / 24) + s5 * (1. / 120) +
               s6 * (1. / 720),
           s[2] * (1. / 2) + s[3] * (1. / 3) + s[4] * (1. / 8) + s5 * (1. / 30) + s6 * (1. / 144));
  }

  SDD_FN void exact(const double* sums) {
    if (trial) {
      // The second term of (2), at most a^2 / (1 + a), must not cost F digits.
      const bool good = 2 * sums[1] * sums[1] <= sums[2] * count;
      if (!good || !(sums[2] < kInfinity && absolute(sums[0]) < kInfinity)) return without_trial();
      l1 = sums[0];
    }
    finish(double(shift), sums[1], sums[2]);
  }

  SDD_FN void plain(const double* sums) {
    const double mass = sums[1], mean = sums[2] / mass;
    const double log_mean = __builtin_log(mass / count), deficit = mean - log_mean;
    if (trial && !(deficit > 0.1 && absolute(mean) < 8 && absolute(sums[0]) < kInfinity)) {
      return without_trial();
    }
    // A few outliers: the best shift there is.
    if (!(deficit > 0.1)) return go(Step::kExact, T(highest + log_mean));
    if (trial) l1 = sums[0];
    finish(double(shift) + log_mean, 0, deficit * count);
  }

  // The sum, that of absolute values; the highest and minus the lowest.
  SDD_FN void moments(const double* sums) {
    const double lowest = -sums[3];
    highest = sums[2];
    trial = false;
    if (!(sums[1] < kInfinity)) return go(Step::kWideMoments, 0);
    l1 = abs_mean ? sums[0] : sums[1];
    const double mean = sums[0] / count;
    const double center = mean < lowest ? lowest : mean > highest ? highest : mean;
    const bool narrow = highest - center <= 1.5 && center - lowest <= 20;
    narrow ? go(Step::kExact, T(center)) : go(Step::kPlain, T(highest));
  }

  // NaN, infinities, or elements near the end of the range of T. In float64: the sum, that of
  // absolute values, and how many of them are not finite.
  SDD_FN void wide_moments(const double* sums) {
    l1 = abs_mean ? sums[0] : sums[1];
    if (sums[2] == 0) return go(Step::kPlain, T(highest));
    finish(0, __builtin_nan(""), __builtin_nan(""));
  }
};

// --- The merge of a row -------------------------------------------------------------------------

// Adds what a partial is about another shift, (3), to two sums. T: the precision of e^d.
template <class T>
SDD_FN void add_moved(const Partial& p, double offset, double shift, double (&sums)[2]) {
  const double d = p.shift + (p.offset - offset) - shift;
  const ExpTerms<T> t = exp_terms_in_range(clamp_exponent(T(d)));
  const double scale = 1 + double(t.expm1);
  sums[0] += scale * p.expm1 + p.count * double(t.expm1);
  sums[1] += scale * (p.excess + d * p.expm1) + p.count * double(t.excess);
}

// sums: all of (3), about offset + shift
SDD_FN void write_results(const EntropyResults& results, int64_t row, double n, double offset,
                          double shift, const double (&sums)[2], double l1) {
  const RowStats stats = row_stats(shift, sums[0] / n, sums[1] / n);
  const double entropy = __builtin_log(n) - stats.deficit;
  results.entropy[row] = entropy < 0 ? 0 : entropy;  // rounding; NaN stays NaN
  results.l1[row] = l1;
  results.deficit[row] = stats.deficit;
  results.log_mean_exp[row] = offset + stats.log_mean_exp;
}

}  // namespace
}  // namespace sdd
