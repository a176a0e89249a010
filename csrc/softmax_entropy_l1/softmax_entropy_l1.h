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
// A row is summed in chunks, each about a shift of its own. Their sums move to a common one by
//   expm1(u + d) = e^d expm1(u) + expm1(d),   f(u + d) = e^d (f(u) + d expm1(u)) + f(d)        (3)
// with d the old shift minus the new one. For small u both functions are power series, whose sums
// over a chunk are made of power sums s_k = sum u^k, a product and an addition each:
//   sum expm1(u) = s_1 + s_2 / 2! + s_3 / 3! + ...
//   sum f(u) = s_2 / 2 + s_3 / 3 + s_4 / 8 + ... + s_k (k - 1) / k! + ...                   (4)
//
// The gradient: with L = log mean e^x, dL/dx_i = p_i and dD/dx_i = p_i (log p_i + H) = -dH/dx_i.
// Nothing cancels in either once x is taken relative to its mean under p, m = sum p_i x_i = L + D:
//   t = x - m,   p_i = e^t e^D / n,   log p_i + H = t                                       (5)
// so that what comes back to the statistics of the row, g_H, g_D, g_L and g_l1, gives
//   dx = e^t (g_L + (g_D - g_H) t) e^D / n + g_l1 sign(x).                                  (6)
#pragma once

#include "../common/real.h"

namespace sdd {

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

struct RowStats {
  double log_mean_exp;  // log((1/n) sum e^x)
  double deficit;       // D
};

// Equations (1) and (2) from the means a and F.
SDD_FN RowStats row_stats(double shift, double a, double f) {
  const double log1p_a = __builtin_log1p(a);
  // log1p(a) - a / (1 + a), by its series where the difference would lose digits
  const double correction = a < 1e-3 && a > -1e-3
                                ? a * a * (1. / 2 - a * (2. / 3 - a * (3. / 4 - a * (4. / 5))))
                                : log1p_a - a / (1 + a);
  const double deficit = f / (1 + a) - correction;
  return {shift + log1p_a, deficit < 0 ? 0 : deficit};  // rounding; NaN stays NaN
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
