// Softmax entropy, its deficit and the L1 norm of one row x of n elements: the scalar mathematics,
// host and device (SDD paper Eq. 8-11, with the entropy rewritten so that nothing cancels).
//
//   p = softmax(x),   H = -sum p log p,   D = log n - H = KL(p || uniform) >= 0
//
// Guidance gradients have std 1e-5 ... 1e-2, where D ~ Var(x)/2 is far below one ulp of H ~ log n.
// With a shift c and u = x - c put
//   a = mean(expm1(u)),   F = mean(f(u)),   f(u) = u e^u - expm1(u) = u^2/2 + u^3/3 + ... >= 0.
// Then, exactly and for every c,
//   log mean e^x = c + log1p(a)                                                             (1)
//   D = F / (1 + a) - (log1p(a) - a / (1 + a))                                              (2)
// The second term of (2) is ~ a^2/2 and vanishes at c = log mean e^x, where D = mean(f(u)): a mean
// of non-negative numbers, each known to full relative precision. Any c near enough will do.
//
// A row split into chunks k (n_k elements, shift-free results v_k = log mean e^x, D_k) recombines
// by the chain rule of the Kullback-Leibler divergence, with w_k the softmax mass of chunk k:
//   D = sum w_k D_k + KL(w || n_k / n)                                                      (3)
// and the last term is (2) again, over the v_k with weights n_k / n.
//
// The gradient: with L = log mean e^x, dL/dx_i = p_i and dD/dx_i = p_i (log p_i + H) = -dH/dx_i.
// Nothing cancels in either once x is taken relative to its mean under p, m = sum p_i x_i = L + D:
//   t = x - m,   p_i = e^t e^D / n,   log p_i + H = t                                       (5)
// so that what comes back to the statistics of the row, g_H, g_D, g_L and g_l1, gives
//   dx = e^t (g_L + (g_D - g_H) t) e^D / n + g_l1 sign(x).                                  (6)
#pragma once

#include "../common/real.h"

namespace sdd {

// What is kept of a row, or of a chunk of a row.
struct RowStats {
  double log_mean_exp;  // log((1/n) sum e^x)
  double deficit;       // D
  double l1;            // sum |x|
};

// A value for every row; zeros where there are none.
struct RowValues {
  const double* values;  // [rows], or null
  int64_t stride;        // in elements
};

// What the gradient of the rows is made of: two of their statistics, and the gradients of all.
struct GradientRows {
  RowValues deficit, log_mean_exp;
  RowValues grad_entropy, grad_l1, grad_deficit, grad_log_mean_exp;
};

namespace {

template <class T>
struct ExpTerms {
  T expm1;   // e^u - 1
  T excess;  // f(u) = u e^u - (e^u - 1)
};

// |u| <= 87 (float) / 700 (double). With u = k ln 2 + r and (q, f_r) the terms of r:
//   expm1(u) = 2^k q + (2^k - 1),   f(u) = 2^k (f_r + k ln 2 (1 + q)) - (2^k - 1).
template <class T>
SDD_FN ExpTerms<T> exp_terms_in_range(T u) {
  using C = ExpConstants<ScalarOf<T>>;
  constexpr ScalarOf<T> ln2 = ScalarOf<T>(0.693147180559945309417);
  const Reduced<T> e = reduce_exponent(u);
  const T g = exp_tail<C::tail_degree>(e.r);
  const T r2 = e.r * e.r;
  const T q = e.r + r2 * g;
  const T f_r = r2 * (1 - g + e.r * g);
  const T scale_minus_1 = e.two_to_k - 1;
  return {e.two_to_k * q + scale_minus_1, e.two_to_k * (f_r + e.k * ln2 * (1 + q)) - scale_minus_1};
}

// Any u <= 87 (float) / 700 (double); e^u counts as 0 below the negative of that.
template <class T>
SDD_FN ExpTerms<T> exp_terms(T u) {
  return exp_terms_in_range(clamp_exponent(u));
}

// For small u both are power series, and their sums over a chunk are made of power sums
// s_k = sum u^k, which cost a product and an addition each:
//   sum expm1(u) = s_1 + s_2 / 2! + s_3 / 3! + ...
//   sum f(u) = s_2 / 2 + s_3 / 3 + s_4 / 8 + ... + s_k (k - 1) / k! + ...                   (4)
template <class T, int kOrder>  // kOrder 4: without s_5 and s_6
struct PowerSums {
  T s1{}, s2{}, s3{}, s4{}, s5{}, s6{};
  SDD_FN void add(T u) {
    const T u2 = u * u;
    const T u3 = u * u2;
    s1 += u;
    s2 += u2;
    s3 += u3;
    s4 += u2 * u2;
    if constexpr (kOrder == 6) {
      s5 += u2 * u3;
      s6 += u3 * u3;
    }
  }
};

struct TermSums {
  double expm1;   // sum of expm1(u)
  double excess;  // sum of f(u)
};

template <int kOrder>
SDD_FN TermSums sum_series(const PowerSums<double, kOrder>& p) {
  return {
      p.s1 + p.s2 * (1. / 2) + p.s3 * (1. / 6) + p.s4 * (1. / 24) + p.s5 * (1. / 120) +
          p.s6 * (1. / 720),
      p.s2 * (1. / 2) + p.s3 * (1. / 3) + p.s4 * (1. / 8) + p.s5 * (1. / 30) + p.s6 * (1. / 144)};
}

// Whether the first term that (4) leaves out is below 1e-7 of the sum: |s_5| / 30 <= s_4 max|u| /
// 30 or |s_7| / 840 <= s_6 max|u| / 840, where max|u| is at most the fourth root of s_4, the sixth
// of s_6. With 2^14 elements or fewer that implies |u| < 1.2, so that the rest of the series is no
// larger. Raised to a power that leaves no roots. False for NaN, and for sums beyond the range.
template <int kOrder>
SDD_FN bool series_converged(const PowerSums<double, kOrder>& p) {
  const double sum = 1e-7 / 2 * p.s2, highest = kOrder == 4 ? p.s4 : p.s6;
  const double left_out = highest * (kOrder == 4 ? 1. / 30 : 1. / 840);
  const double sum2 = sum * sum, left_out2 = left_out * left_out;
  if (highest == 0) return true;
  if constexpr (kOrder == 4) return left_out2 * left_out2 * highest < sum2 * sum2;
  return left_out2 * left_out2 * left_out2 * highest < sum2 * sum2 * sum2;
}

// Equations (1) and (2) from the means a and F.
SDD_FN void finish_stats(double shift, double a, double f, RowStats* out) {
  const double log1p_a = __builtin_log1p(a);
  // log1p(a) - a / (1 + a), by its series where the difference would lose digits
  const double correction = a < 1e-3 && a > -1e-3
                                ? a * a * (1. / 2 - a * (2. / 3 - a * (3. / 4 - a * (4. / 5))))
                                : log1p_a - a / (1 + a);
  const double deficit = f / (1 + a) - correction;
  out->log_mean_exp = shift + log1p_a;
  out->deficit = deficit < 0 ? 0 : deficit;  // rounding; NaN stays NaN
}

// Equation (3). chunk: [num_chunks], every chunk chunk_size long but the last, n elements in all.
// Sums run in the order of the chunks: the same bits whatever thread wrote them.
inline RowStats merge_chunks(const RowStats* chunk, int64_t num_chunks, int64_t chunk_size,
                             int64_t n) {
  if (num_chunks == 1) return chunk[0];
  double highest = chunk[0].log_mean_exp;
  double l1 = 0;
  bool finite = true;
  for (int64_t k = 0; k < num_chunks; ++k) {
    const double v = chunk[k].log_mean_exp;
    highest = v > highest ? v : highest;
    finite = finite && v == v;
    l1 += chunk[k].l1;
  }
  if (!finite) return {__builtin_nan(""), __builtin_nan(""), l1};
  double mass = 0;
  for (int64_t k = 0; k < num_chunks; ++k) {
    const int64_t left = n - k * chunk_size;
    const int64_t count = left < chunk_size ? left : chunk_size;
    mass += double(count) * __builtin_exp(chunk[k].log_mean_exp - highest);
  }
  const double shift = highest + __builtin_log(mass / double(n));
  double a = 0, f = 0, within = 0;
  for (int64_t k = 0; k < num_chunks; ++k) {
    const int64_t left = n - k * chunk_size;
    const double weight = double(left < chunk_size ? left : chunk_size) / double(n);
    const ExpTerms<double> t = exp_terms(chunk[k].log_mean_exp - shift);
    a += weight * t.expm1;
    f += weight * t.excess;
    within += weight * (1 + t.expm1) * chunk[k].deficit;
  }
  RowStats row;
  finish_stats(shift, a, f, &row);
  row.deficit += within / (1 + a);
  row.l1 = l1;
  return row;
}

// What (6) takes of a row, for entries x - offset. The mean is kept in two numbers: what x has in
// common with it must not cost t its precision.
template <class S>
struct GradientTerms {
  S mean, mean_rest;
  S constant, slope;  // g_L e^D / n and (g_D - g_H) e^D / n
  S l1;
};

SDD_FN double value_of(const RowValues& r, int64_t row) {
  return r.values ? r.values[row * r.stride] : 0;
}

// Float64 is slow on many GPUs: it serves where digits would cancel. inverse_n: 1 / n
template <class S>
SDD_FN GradientTerms<S> gradient_terms(const GradientRows& rows, int64_t row, double inverse_n,
                                       double offset) {
  const double deficit = value_of(rows.deficit, row);
  const double mean = value_of(rows.log_mean_exp, row) + deficit - offset;
  const double slope = value_of(rows.grad_deficit, row) - value_of(rows.grad_entropy, row);
  const S d = S(deficit);
  const S scale = exp_in_range(d) * (1 + S(deficit - double(d))) * S(inverse_n);
  return {S(mean), S(mean - double(S(mean))), S(value_of(rows.grad_log_mean_exp, row)) * scale,
          S(slope) * scale, S(value_of(rows.grad_l1, row))};
}

// Equation (6) without its last term, of an entry or a vector of them. Where e^t counts as 0 it is:
// t may be as large as x.
template <class T, class S>
SDD_FN T gradient_of_entry(T x, const GradientTerms<S>& g) {
  const T t = clamp_exponent(T((x - g.mean) - g.mean_rest));
  const T e = t > T{} + ExpConstants<S>::lowest ? exp_in_range(t) : T{};
  return e * (g.constant + g.slope * t);
}

// sign(x) * value, with sign(0) = 0: by its bits, without a branch.
template <class T, class V>
SDD_FN T with_sign(T x, V value) {
  const auto sign = Real<T>::bits(x) & Real<ScalarOf<T>>::bits(-ScalarOf<T>(0));
  const T signed_value = Real<T>::from_bits(Real<T>::bits(T{} + value) ^ sign);
  return x == T{} ? T{} : signed_value;
}

}  // namespace
}  // namespace sdd
