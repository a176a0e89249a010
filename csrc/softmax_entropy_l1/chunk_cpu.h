// A chunk on the CPU: its entries, tile by tile, and what a step (chunk.h) adds up of them.
#pragma once

#include "../common/elements.h"
#include "chunk.h"

namespace sdd {
namespace {

// Entries that are added up in the precision of the elements; tiles are in float64. A sum of 16 bit
// entries, of which many are equal, is rounded to one side: no more than 16 additions in a row.
template <class T>
constexpr int64_t kTile = 32 * lanes<T>;

// What is read 16 kB later, of the kCount elements from p on: keeps the memory busy from one core.
template <int kCount, class Stored>
SDD_FN void prefetch(const Stored* p) {
  for (int at = 0; at < kCount * int(sizeof(Stored)); at += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(p) + 16384 + at);
  }
}

// The signed map: its entries are the elements.
template <class E>
struct SignedMap {
  using Element = E;
  static constexpr bool abs_mean = false;
  const typename E::Stored* x;  // [n]

  double offset() const { return 0; }
  // Entries from `first` on.
  SDD_FN const typename E::Stored* tile(int64_t first, int64_t, typename E::Compute*) const {
    return x + first;
  }
};

// The abs-mean map, minus an offset: a value near the |x_c| is taken from those of each channel, as
// what they have in common must not cost their sum its precision.
template <class E>
struct AbsMeanMap {
  using T = typename E::Compute;
  using Element = PlainElement<T>;
  static constexpr bool abs_mean = true;
  const typename E::Stored* x;  // [channels, n]
  int64_t channels, channel_stride;

  SDD_FN T near(int64_t channel) const {
    const T first = absolute(T(E::value(x + channel * channel_stride)));
    return first < T(kInfinity) ? first : T(0);
  }
  double offset() const {
    double sum = 0;
    for (int64_t c = 0; c < channels; ++c) sum += double(near(c)) / double(channels);
    return sum;
  }
  // `count` entries from `first` on, made in `map`: several vectors at a time through all channels.
  SDD_FN const T* tile(int64_t first, int64_t count, T* map) const {
    const T inverse = T(1) / T(channels);
    const auto make = [&](auto lane, auto vectors, int64_t i) __attribute__((always_inline)) {
      using Lane = decltype(lane);
      typename Lane::T sum[vectors.value] = {};
      for (int64_t c = 0; c < channels; ++c) {
        const auto* from = x + c * channel_stride + first + i;
        const T common = near(c);
        prefetch<vectors.value * Lane::width>(from);
#pragma GCC unroll 8
        for (int v = 0; v < vectors.value; ++v) {
          sum[v] += absolute(Lane::read(from + v * Lane::width)) - common;
        }
      }
#pragma GCC unroll 8
      for (int v = 0; v < vectors.value; ++v) {
        Element::put(map + i + v * Lane::width, typename Lane::T(sum[v] * inverse));
      }
    };
    int64_t i = 0;
    for (; i + 8 * lanes<T> <= count; i += 8 * lanes<T>) make(VectorLane<E>{}, Count<8>{}, i);
    for (; i < count; ++i) make(OneLane<E>{}, Count<1>{}, i);
    return map;
  }
};

// The larger of the two: NaN does not count.
template <bool kMaximum, class T>
SDD_FN T joined(T a, T b) {
  if constexpr (kMaximum) return b > a ? b : a;
  return a + b;
}

// terms(v, sums) adds entries v, a vector or one of them, to kSums sums, the last kMaxima of which
// are maxima -> totals [kSums] over n entries.
template <int kSums, int kMaxima = 0, class Map, class Terms>
SDD_FN void add_up(const Map& map, int64_t n, double* totals, const Terms& terms) {
  using E = typename Map::Element;
  using T = typename E::Compute;
  using V = typename E::Vector;
  constexpr int width = lanes<T>, wide = sizeof(double) / sizeof(T);
  constexpr auto start = [](int k) { return k < kSums - kMaxima ? T(0) : T(-kInfinity); };
  DoubleVector of_tiles[kSums][wide];
  T rest[kSums];  // of the end, less than two vectors
#pragma GCC unroll 8
  for (int k = 0; k < kSums; ++k) {
    rest[k] = start(k);
    for (DoubleVector& sum : of_tiles[k]) sum = DoubleVector{} + double(rest[k]);
  }
  for (int64_t first = 0; first < n; first += kTile<T>) {
    const int64_t count = n - first < kTile<T> ? n - first : kTile<T>;
    alignas(64) T buffer[kTile<T>];
    const auto* x = map.tile(first, count, buffer);
    V even[kSums], odd[kSums];  // two sums of each, which hides the latency of an addition
#pragma GCC unroll 8
    for (int k = 0; k < kSums; ++k) even[k] = odd[k] = V{} + start(k);
    int64_t i = 0;
    for (; i + 2 * width <= count; i += 2 * width) {
      if constexpr (!Map::abs_mean) prefetch<2 * width>(x + i);
      terms(E::vector(x + i), even);
      terms(E::vector(x + i + width), odd);
    }
    for (; i < count; ++i) terms(E::value(x + i), rest);
    const auto flush = [&](auto maximum, int k) __attribute__((always_inline)) {
      DoubleVector sum[wide];
      widen(joined<maximum.value>(even[k], odd[k]), sum);
      for (int w = 0; w < wide; ++w) {
        of_tiles[k][w] = joined<maximum.value>(of_tiles[k][w], sum[w]);
      }
    };
#pragma GCC unroll 8
    for (int k = 0; k < kSums - kMaxima; ++k) flush(Count<0>{}, k);
#pragma GCC unroll 8
    for (int k = kSums - kMaxima; k < kSums; ++k) flush(Count<1>{}, k);
  }
  for (int k = 0; k < kSums; ++k) {
    double lane[width];
    memcpy(lane, of_tiles[k], sizeof(lane));
    totals[k] = double(rest[k]);
    for (const double value : lane) {
      totals[k] = k < kSums - kMaxima ? totals[k] + value : joined<true>(totals[k], value);
    }
  }
}

template <class Map>
void sum_chunk(const Map& map, int64_t n, Partial* out) {
  using E = typename Map::Element;
  using T = typename E::Compute;
  T one[1];
  const T first = E::value(map.tile(0, 1, one));
  const int64_t sample = n / 32;  // the first entries
  const bool sampled = sizeof(T) == 4 && sample >= 64;
  Chunk<T> chunk{double(n),
                 map.offset(),
                 Map::abs_mean,
                 sampled ? Step::kSample : Step::kMoments,
                 first,
                 true,
                 0,
                 0,
                 {}};
  const auto l1 = [](auto v) __attribute__((always_inline)) {
    if constexpr (Map::abs_mean) return v;
    return absolute(v);
  };
  while (chunk.step != Step::kDone) {
    const T shift = chunk.shift;
    double sums[7];
    switch (chunk.step) {
      case Step::kSample:
        add_up<2>(map, sample, sums, [=](auto v, auto& s) { add_sample(v - shift, s); });
        chunk.sampled(sums, int(sample));
        break;
      case Step::kPower4:
        add_up<5>(map, n, sums, [=](auto v, auto& s) {
          s[0] += l1(v);
          add_powers<4>(v - shift, s);
        });
        chunk.template power<4>(sums);
        break;
      case Step::kPower6:
        add_up<7>(map, n, sums, [=](auto v, auto& s) {
          s[0] += l1(v);
          add_powers<6>(v - shift, s);
        });
        chunk.template power<6>(sums);
        break;
      case Step::kExact:
        add_up<3>(map, n, sums, [=](auto v, auto& s) {
          s[0] += l1(v);
          add_exact(v - shift, s);
        });
        chunk.exact(sums);
        break;
      case Step::kPlain:
        add_up<3>(map, n, sums, [=](auto v, auto& s) {
          s[0] += l1(v);
          add_plain(v - shift, s);
        });
        chunk.plain(sums);
        break;
      case Step::kMoments:
        add_up<4, 2>(map, n, sums, [=](auto v, auto& s) {
          s[0] += v;
          s[1] += absolute(v);
          s[2] = joined<true>(s[2], v);
          s[3] = joined<true>(s[3], -v);
        });
        chunk.moments(sums);
        break;
      case Step::kWideMoments:
        sums[0] = sums[1] = sums[2] = 0;
        for (int64_t i = 0; i < n; ++i) {
          const double v = double(E::value(map.tile(i, 1, one)));
          sums[0] += v;
          sums[1] += absolute(v);
          sums[2] += absolute(v) < kInfinity ? 0 : 1;
        }
        chunk.wide_moments(sums);
        break;
      case Step::kDone:
        break;
    }
  }
  *out = chunk.partial;
}

}  // namespace
}  // namespace sdd
