// Bias, activation, gain and clamp: the scalar mathematics, host and device.
//
//   u = x + b,   v = gain * act(u),   y = clamp(v, -limit, limit)                             (1)
//
// Every act is piecewise linear, with slope 1 above zero and alpha at and below it: 1 for linear, 0
// for relu. The gain is positive, so
//   v = gain u  for u > 0,  gain alpha u  otherwise                                           (2)
//   dy/dx = gain or gain alpha, likewise, and 0 where |v| >= limit                            (3)
// (3) can be told from y alone: y > 0 exactly where u > 0 (unless gain * u underflows, which takes
// gain <= 1/2) and |y| >= limit exactly where |v| >= limit, rounding being monotone. At the limit
// itself the derivative is chosen to be 0, as torch's hardtanh does.
// No limit is written as NaN: every comparison with it is false.
#pragma once

#include <type_traits>

#include "../common/real.h"

namespace sdd {

enum class Act { kLinear, kRelu, kLrelu };

// As the caller gave it.
struct Activation {
  Act act;
  double gain;
  double alpha;
  double limit;  // NaN: none
};

namespace {

// In the precision of a kernel.
template <class S>
struct ActParams {
  S gain;
  S low_gain;  // gain * alpha
  S limit;     // as the result is stored: what reaches it can then be told from the result

  SDD_FN ActParams(const Activation& a, S stored_limit)
      : gain(S(a.gain)),
        low_gain(S(a.gain * (a.act == Act::kLinear ? 1
                             : a.act == Act::kRelu ? 0
                                                   : a.alpha))),
        limit(stored_limit) {}
};

// v of (2)
template <Act kAct, class T>
SDD_FN T gained_act(T u, ActParams<ScalarOf<T>> p) {
  if constexpr (kAct == Act::kLinear) return u * p.gain;
  // relu(-inf) is 0, so no product; NaN is not <= 0 and stays.
  const T low = kAct == Act::kRelu ? T{} : u * p.low_gain;
  return u <= 0 ? low : u * p.gain;
}

// y of (1)
template <Act kAct, class T>
SDD_FN T activated(T u, ActParams<ScalarOf<T>> p) {
  const T v = gained_act<kAct>(u, p);
  const T limit = T{} + p.limit;
  const T above = v > limit ? limit : v;
  return above < -limit ? -limit : above;
}

// grad * dy/dx of (3). sign: any number that is > 0 exactly where u is; reached: v or y.
template <Act kAct, class T>
SDD_FN T bias_act_gradient(T grad, T sign, T reached, ActParams<ScalarOf<T>> p) {
  T slope = T{} + p.gain;
  if constexpr (kAct != Act::kLinear) slope = sign > 0 ? slope : T{} + p.low_gain;
  const T g = grad * slope;
  return absolute(reached) >= T{} + p.limit ? T{} : g;
}

// body(act) with the activation as a constant act(): a CPU kernel has a copy for each.
template <class Body>
SDD_FN void with_act(Act act, const Body& body) {
  using std::integral_constant;
  switch (act) {
    case Act::kLinear:
      return body(integral_constant<Act, Act::kLinear>{});
    case Act::kRelu:
      return body(integral_constant<Act, Act::kRelu>{});
    case Act::kLrelu:
      return body(integral_constant<Act, Act::kLrelu>{});
  }
}

// The activation told at run time, for GPUs: the same for all threads, it costs nothing beside the
// memory traffic. linear is lrelu with alpha = 1, to the bit.
template <class S>
struct AnyAct {
  ActParams<S> params;
  bool relu;

  AnyAct(const Activation& a, S stored_limit)
      : params(a, stored_limit), relu(a.act == Act::kRelu) {}
  SDD_FN S activated(S u) const {
    return relu ? sdd::activated<Act::kRelu>(u, params) : sdd::activated<Act::kLrelu>(u, params);
  }
  SDD_FN S gradient(S grad, S sign, S reached) const {
    return bias_act_gradient<Act::kLrelu>(grad, sign, reached, params);
  }
};

}  // namespace
}  // namespace sdd
