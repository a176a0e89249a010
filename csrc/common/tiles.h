// Sums over a chunk: in the precision of the vectors within a tile, in float64 above it.
#pragma once

#include "simd.h"

namespace sdd {
namespace {

template <class T>
using Vector = typename VectorOf<T>::type;

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

// Calls body(stream, i) for i = 0, kStep, 2 kStep ... in tiles of kSteps, and flush() after each
// tile; returns how many of the n elements were consumed. The rest, fewer than kStep, is the
// caller's. Streams 0 ... kStreams - 1 take turns: independent sums hide the latency of an
// addition.
template <int kStep, int kSteps, int kStreams, class Body, class Flush>
SDD_FN int64_t for_each_tile(int64_t n, const Body& body, const Flush& flush) {
  int64_t i = 0;
  for (; i + kSteps * kStep <= n; i += kSteps * kStep) {
    for (int k = 0; k < kSteps; k += kStreams) {
      for (int s = 0; s < kStreams; ++s) body(s, i + (k + s) * kStep);
    }
    flush();
  }
  if (i + kStep <= n) {
    for (; i + kStep <= n; i += kStep) body(0, i);
    flush();
  }
  return i;
}

}  // namespace
}  // namespace sdd
