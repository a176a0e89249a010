// upfirdn2d along one direction: which inputs and which taps make an output. The scalar
// mathematics, host and device; the two directions of an image are independent of each other.
//
// Between every two inputs up - 1 zeros are inserted, `pad` zeros are put before the first one
// (negative: as many are cut off), and the window of output o starts at the pixel o * down of what
// results. With g the taps in the order in which they meet the pixels of a window,
//
//   y[o] = sum_{a = 0 ... taps - 1} g[a] z[o down - pad + a],   z[i up] = x[i], zero elsewhere. (1)
//
// Only every up-th pixel is not a zero. With u = o down - pad, the first of them in the window is
//
//   a_0 = -u mod up,   i_0 = (u + a_0) / up = ceil(u / up),                                     (2)
//
// and the others follow in steps of `up` taps and one input:
//
//   y[o] = sum_{j = 0 ... count - 1} g[a_0 + j up] x[i_0 + j],   count = ceil((taps - a_0) / up).
//   (3)
//
// a_0 depends on o through the phase of u alone, so the taps are stored by phase. The window of the
// output o + up / gcd(up, down) has the same phase and starts down / gcd(up, down) inputs later.
// (4)
//
// The gradient in x is the same operation on the gradient in y, with up and down exchanged, the
// taps reversed, and taps - 1 - pad zeros before it. (5)
#pragma once

#include "../common/real.h"

namespace sdd {

struct ResampleAxis {
  int64_t up;
  int64_t down;
  int64_t pad;   // zeros before the first pixel, counted after the insertion; may be negative
  int64_t taps;  // >= 1
  int64_t in;    // inputs, >= 1
  int64_t out;   // outputs
};

// What (3) needs of one output.
struct ResampleWindow {
  int64_t phase;  // a_0
  int64_t skip;   // j of the first term
  int64_t index;  // input of that term
  int64_t count;  // terms
};

namespace {

SDD_FN int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }  // b > 0

SDD_FN int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// The count of (3), by phase; phase 0 has the most terms.
SDD_FN int64_t phase_terms(const ResampleAxis& axis, int64_t phase) {
  return phase < axis.taps ? (axis.taps - phase - 1) / axis.up + 1 : 0;
}

// Every term of (3), also those whose input lies outside the image and counts as zero.
SDD_FN ResampleWindow whole_window(const ResampleAxis& axis, int64_t output) {
  const int64_t start = output * axis.down - axis.pad;
  const int64_t index = -floor_div(-start, axis.up);
  const int64_t phase = index * axis.up - start;
  return {phase, 0, index, phase_terms(axis, phase)};
}

// The terms inside the image only. Zero `count`: the output is zero.
SDD_FN ResampleWindow clipped_window(const ResampleAxis& axis, int64_t output) {
  ResampleWindow w = whole_window(axis, output);
  const int64_t first = w.index < 0 ? -w.index : 0;
  const int64_t behind = axis.in - w.index < w.count ? axis.in - w.index : w.count;
  w.count = behind > first ? behind - first : 0;
  w.skip = first;
  w.index += first;
  return w;
}

// Outputs of (1): as many as there are windows in the padded image. Less than 1 when it is smaller
// than the filter.
SDD_FN int64_t resampled_size(int64_t padded, int64_t taps, int64_t down) {
  return padded < taps ? 0 : (padded - taps) / down + 1;
}

}  // namespace
}  // namespace sdd
