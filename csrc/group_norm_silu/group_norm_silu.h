// Group normalization by frozen parameters, and the SiLU after it: the scalar mathematics, host and
// device.
//
// A group has M elements x, of `channels / groups` channels of one sample; w and b are those of a
// channel. All statistics are float64.
//   mean = sum x / M,   var = sum (x - mean)^2 / M,   r = (var + eps)^(-1/2)                   (1)
//   z = w r (x - mean) + b,   y = z s(z),   s(z) = 1 / (1 + e^-z)                              (2)
// Without SiLU y = z. With g the gradient of y and
//   D = g dy/dz,   dy/dz = s(z) + y (1 - s(z))                                                 (3)
// the gradient of x is r (wD - mean of wD - (x - mean) r^2 mean of wD (x - mean))              (4)
//
// An element never meets a mean much larger than the spread of its group: a shift, one number of
// the precision of the kernels, is taken off first, and (x - shift) is exact or nearly so.
//   var = sum (x - shift)^2 / M - (sum (x - shift) / M)^2   for a shift among the elements     (5)
//   z = scale (x - shift) + offset,   scale = w r,   offset = b - scale (mean - shift)         (6)
// for the mean rounded to the shift, and (4) with T = sum scale D, U = sum scale D (x - shift):
//   dx = scale D - slope (x - shift) - rest,   slope = r^2 (U - (mean - shift) T) / M,
//   rest = T / M - slope (mean - shift)                                                        (7)
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/real.h"

namespace sdd {
namespace {

// A division takes longer than the exponential: instruction sets may have something better.
template <class T>
struct Reciprocal {
  SDD_FN static T of(T x) { return 1 / x; }
};

// s(z) of (2). Beyond the range of the exponential it is 0 or 1 to every digit.
template <class T>
SDD_FN T sigmoid(T z) {
  const T highest = T{} - ExpConstants<ScalarOf<T>>::lowest;
  return Reciprocal<T>::of(1 + exp_in_range(Real<T>::smaller(clamp_exponent(T(-z)), highest)));
}
#if defined(__CUDA_ARCH__)
// The same by two instructions of the GPU, wrong by some units of the last place: the exponential
// above would take longer than the memory.
SDD_FN float sigmoid(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }
#endif

// y of (2)
template <bool kSilu, class T>
SDD_FN T activated(T z) {
  if constexpr (!kSilu) return z;
  return z * sigmoid(z);
}

// D of (3)
template <bool kSilu, class T>
SDD_FN T activation_gradient(T grad, T z) {
  if constexpr (!kSilu) return grad;
  const T s = sigmoid(z);
  return grad * (s + z * s * (1 - s));
}

struct GroupStatistics {
  double mean;
  double rstd;
};

// (1) by (5)
SDD_FN GroupStatistics group_statistics(double sum, double squares, double shift, double count,
                                        double eps) {
  const double mean = sum / count, var = squares / count - mean * mean;
  return {shift + mean, 1.0 / sqrt((var > 0 || var != var ? var : 0.0) + eps)};
}

// Of (6), for a channel.
template <class S>
struct Affine {
  S shift;
  S scale;
  S offset;
};

template <class S>
SDD_FN Affine<S> affine_of(GroupStatistics g, double weight, double bias) {
  const S shift = S(g.mean);
  const double scale = weight * g.rstd;
  return {shift, S(scale), S(bias - scale * (g.mean - double(shift)))};
}

// Of (7), for a group.
template <class S>
struct GroupSlope {
  S slope;
  S rest;
};

// t, u: the sums T and U
template <class S>
SDD_FN GroupSlope<S> group_slope(GroupStatistics g, double t, double u, double count) {
  const double beside = g.mean - double(S(g.mean));
  const double slope = g.rstd * g.rstd * (u - beside * t) / count;
  return {S(slope), S(t / count - slope * beside)};
}

}  // namespace
}  // namespace sdd
