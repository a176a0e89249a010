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

#include "../common/real.h"

namespace sdd {

enum class Act { kLinear, kRelu, kLrelu };

namespace {

template <class S>
struct ActParams {
  S gain;
  S low_gain;  // gain * alpha
  S limit;     // NaN: none
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

}  // namespace
}  // namespace sdd
