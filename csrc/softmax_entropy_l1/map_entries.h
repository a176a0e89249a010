// The entries of a chunk of a map, two vectors at a time. Sums do not ask for an order, so the two
// may hold the 2 * lanes entries in any.
#pragma once

#include "../common/elements.h"

namespace sdd {
namespace {

template <class E>
SDD_FN void load_pair(const typename E::Stored* p, typename E::Vector* v) {
  v[0] = E::vector(p);
  v[1] = E::vector(p + lanes<typename E::Compute>);
}

// A bfloat16 is the upper half of a float: 32 bits hold two, one shift and one mask apart.
template <>
SDD_FN void load_pair<BFloat16Element>(const uint16_t* p, FloatVector* v) {
  UInt32Vector both;
  memcpy(&both, p, sizeof(both));
  v[0] = (FloatVector)(both << 16);
  v[1] = (FloatVector)(both & 0xffff0000u);
}

// What load_pair() will read kPrefetchBytes later: keeps the memory busy from one core.
constexpr int64_t kPrefetchBytes = 16384;

template <class E>
SDD_FN void prefetch_pair(const typename E::Stored* p, int64_t bytes_ahead) {
  using Stored = typename E::Stored;
  constexpr int64_t bytes = 2 * lanes<typename E::Compute> * int64_t(sizeof(Stored));
  const char* ahead = reinterpret_cast<const char*>(p) + bytes_ahead;
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(ahead + line);
}

// Elements as they are stored: entries of the signed map, or, with kAbsMean, entries of the
// non-negative abs-mean map minus `offset`.
template <class E, bool kAbsMean>
struct StoredEntries {
  using Element = E;
  static constexpr bool abs_mean = kAbsMean;
  const typename E::Stored* x;  // [n]
  double offset = 0;
  SDD_FN typename E::Compute value(int64_t i) const { return E::value(x + i); }
  SDD_FN void pair(int64_t i, typename E::Vector* v) const { load_pair<E>(x + i, v); }
  SDD_FN void prefetch(int64_t i) const { prefetch_pair<E>(x + i, kPrefetchBytes); }
};

// A value near those |x_c| of a channel. It is taken from each: what they have in common must
// not cost their sum its precision.
template <class E>
SDD_FN typename E::Compute near_value(const typename E::Stored* x) {
  using T = typename E::Compute;
  const T first = absolute(T(E::value(x)));
  return first < T(__builtin_inf()) ? first : T(0);
}

// The map mean_c |x_c| - offset of a few channels, made while it is read.
template <class E, int kChannels>
struct AbsMeanEntries {
  using Element = E;
  using T = typename E::Compute;
  using V = typename E::Vector;
  static constexpr bool abs_mean = true;
  static constexpr T inverse = T(1) / T(kChannels);
  const typename E::Stored* x;  // [kChannels, n]
  int64_t channel_stride;
  T near[kChannels];
  double offset = 0;

  SDD_FN AbsMeanEntries(const typename E::Stored* data, int64_t stride)
      : x(data), channel_stride(stride) {
    for (int c = 0; c < kChannels; ++c) {
      near[c] = near_value<E>(x + c * stride);
      offset += double(near[c]) / double(kChannels);
    }
  }
  SDD_FN T value(int64_t i) const {
    T sum = 0;
    for (int c = 0; c < kChannels; ++c) {
      sum += absolute(T(E::value(x + c * channel_stride + i))) - near[c];
    }
    return sum * inverse;
  }
  SDD_FN void pair(int64_t i, V* v) const {
    v[0] = v[1] = V{};
    for (int c = 0; c < kChannels; ++c) {
      V channel[2];
      load_pair<E>(x + c * channel_stride + i, channel);
      for (int k = 0; k < 2; ++k) v[k] += absolute(channel[k]) - near[c];
    }
    for (int k = 0; k < 2; ++k) v[k] *= inverse;
  }
  SDD_FN void prefetch(int64_t i) const {
    for (int c = 0; c < kChannels; ++c) {
      prefetch_pair<E>(x + c * channel_stride + i, kPrefetchBytes / kChannels);
    }
  }
};

}  // namespace
}  // namespace sdd
