// What follows the convolution of a styled layer: the scalar mathematics, host and device.
//
//   u = x * factor + noise + bias,   y = clamp(gain * act(u), -limit, limit)                   (1)
//
// with factor[n, o] (demodulation), noise[n, pixel] and bias[o]. The slope g = dy/du is (3) of
// bias_act.h, evaluated at u, which the backward pass computes again from x: cheaper than reading
// y, and the same bits. With h = grad * g
//   dx = h * factor,  dfactor[n, o] = sum of h * x,  dnoise[pixel] and dbias[o] = sums of h    (2)
#pragma once

#include "../bias_act/bias_act.h"

namespace sdd {
namespace {

// u of (1); shift is noise + bias
template <class T>
SDD_FN T preactivation(T x, T factor, T shift) {
  return x * factor + shift;
}

}  // namespace
}  // namespace sdd
