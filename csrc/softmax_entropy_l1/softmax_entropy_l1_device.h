// What a block does with the elements of its chunk: it holds them in registers from the one time
// they are read until their sums are known to be right.
#pragma once

#include <type_traits>

#include "../common/device_elements.h"
#include "../common/device_sums.h"
#include "softmax_entropy_l1.h"

namespace sdd {
namespace {

// A modifier of the next instruction, which absolute() is not.
__device__ __forceinline__ float magnitude(float x) { return __builtin_fabsf(x); }
__device__ __forceinline__ double magnitude(double x) { return __builtin_fabs(x); }

// Elements in registers.
template <class Held, int kCount>
struct Elements {
  using Word = Held;
  Word words[kCount];
  __device__ __forceinline__ Held stored(int i) const { return words[i]; }
  __device__ __forceinline__ Compute<Held> value(int i) const { return widened(words[i]); }
  __device__ __forceinline__ void put(int i, Held x) { words[i] = x; }
};

// Elements of 16 bits: two in a register, which compilers do not make of an array.
template <class Held, int kCount>
  requires(sizeof(Held) == 2)
struct Elements<Held, kCount> {
  using Word = uint32_t;
  Word words[kCount / 2];
  __device__ __forceinline__ Held stored(int i) const {
    return __builtin_bit_cast(Held, uint16_t(words[i / 2] >> i % 2 * 16));
  }
  __device__ __forceinline__ float value(int i) const { return widened(stored(i)); }
  __device__ __forceinline__ void put(int i, Held x) {
    uint32_t bits = __builtin_bit_cast(uint16_t, x);  // const, nvcc 13.0 aborts over it
    uint32_t& pair = words[i / 2];
    pair = i % 2 ? (pair & 0xffffu) | bits << 16 : (pair & 0xffff0000u) | bits;
  }
};

// The elements of one thread: entries of the signed map as they are stored, or, with kAbsMean,
// entries of the non-negative abs-mean map minus an offset near them.
template <class StoredType, bool kAbsMean, int kThreads>
struct Tile {
  using Stored = StoredType;
  using T = Compute<Stored>;
  using Held = std::conditional_t<kAbsMean, T, Stored>;
  static constexpr bool abs_mean = kAbsMean;
  static constexpr int threads = kThreads;
  static constexpr int kElements = kAbsMean && sizeof(Stored) == 2 ? 16 : 64 / int(sizeof(Stored));
  static constexpr int kPacks = kElements / kPack<Stored>;
  static constexpr int size = kThreads * kElements;  // elements of the block

  Elements<Held, kElements> elements;

  __device__ __forceinline__ T value(int i) const { return elements.value(i); }

  // How many of them are of the map, if the block has `count`: the first ones.
  __device__ __forceinline__ static int valid(int count) {
    constexpr int N = kPack<Stored>, round = kThreads * N;
    const int rest = count % round - int(threadIdx.x) * N;
    return count / round * N + (rest < 0 ? 0 : rest > N ? N : rest);
  }

  // Instead of those that are not.
  __device__ __forceinline__ void fill(T x, int count) {
    const int first = valid(count);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i >= first) elements.put(i, narrowed<Held>(x));
    }
  }
};

// The elements of x, [count], that are those of this thread; 0 beyond the end. Which they are does
// not depend on the address of x: nor do the bits of the results.
template <class Tile>
__device__ __forceinline__ void load_elements(
    const typename Tile::Stored* __restrict__ x, int count, bool packs,
    Elements<typename Tile::Stored, Tile::kElements>& elements) {
  using Stored = typename Tile::Stored;
  constexpr int N = kPack<Stored>;
  const auto place = [](int k) { return (k * Tile::threads + int(threadIdx.x)) * N; };
  if (packs && count == Tile::size) {
    using Word = typename Elements<Stored, Tile::kElements>::Word;
    constexpr int words = kPack<Word>;
    Pack<Word, words> pack[Tile::kPacks];
#pragma unroll
    for (int k = 0; k < Tile::kPacks; ++k) {
      pack[k] = load_pack<words>(reinterpret_cast<const Word*>(x + place(k)));
    }
#pragma unroll
    for (int i = 0; i < Tile::kPacks * words; ++i) elements.words[i] = pack[i / words][i % words];
  } else {
    elements = {};
#pragma unroll
    for (int i = 0; i < Tile::kElements; ++i) {
      const int at = place(i / N) + i % N;
      elements.put(i, at < count ? x[at] : narrowed<Stored>(0));
    }
  }
}

// Returns what the elements of the tile lack, in thread 0.
template <class Tile>
__device__ __forceinline__ double load_tile(const typename Tile::Stored* __restrict__ x, int count,
                                            bool packs, int64_t channels, int64_t channel_stride,
                                            Tile& tile) {
  using T = typename Tile::T;
  if constexpr (Tile::abs_mean) {
    const T inverse = T(1) / T(channels);
    double common = 0;
#pragma unroll
    for (int i = 0; i < Tile::kElements; ++i) tile.elements.put(i, 0);
#pragma unroll(Tile::kPacks == 2 ? 2 : 1)
    for (int64_t c = 0; c < channels; ++c, x += channel_stride) {
      Elements<typename Tile::Stored, Tile::kElements> elements;
      load_elements<Tile>(x, count, packs, elements);
      // A value near the |x_c| is taken from each: what they have in common must not cost their
      // sum its precision.
      T near = magnitude(widened(x[0]));
      near = near < T(__builtin_inf()) ? near : T(0);
#pragma unroll
      for (int i = 0; i < Tile::kElements; ++i) {
        const T above = magnitude(elements.value(i)) - near;
        tile.elements.put(i, tile.value(i) + above * inverse);
      }
      if (threadIdx.x == 0) common += double(near);
    }
    if (count != Tile::size) tile.fill(0, count);
    return threadIdx.x == 0 ? common / double(channels) : 0;
  } else {
    load_elements<Tile>(x, count, packs, tile.elements);
    return 0;
  }
}

// sum |x| of the signed map; of the abs-mean map, whose entries come without their offset, sum x.
template <class Tile>
__device__ __forceinline__ typename Tile::T l1_term(typename Tile::T v) {
  return Tile::abs_mean ? v : magnitude(v);
}

// Elements from all over the chunk: their sum and that of their squares, relative to `near`.
constexpr int kSample = 4;  // of a thread
template <class Tile, class T>
__device__ __forceinline__ void sample_sums(const Tile& tile, T near, T (&sums)[2]) {
  sums[0] = sums[1] = 0;
#pragma unroll
  for (int i = 0; i < kSample; ++i) {
    const T d = tile.value(i * (Tile::kElements / kSample)) - near;
    sums[0] += d;
    sums[1] += d * d;
  }
}

// Equation (4): s_1 ... and the l1 norm.
template <int kOrder, class Tile, class T>
__device__ __forceinline__ void power_sums(const Tile& tile, T shift, T (&sums)[kOrder + 1]) {
  PowerSums<T, kOrder> power;
  T l1 = 0;
#pragma unroll
  for (int i = 0; i < Tile::kElements; ++i) {
    const T v = tile.value(i);
    power.add(v - shift);
    l1 += l1_term<Tile>(v);
  }
  sums[0] = l1;
  sums[1] = power.s1;
  sums[2] = power.s2;
  sums[3] = power.s3;
  sums[4] = power.s4;
  if constexpr (kOrder == 6) {
    sums[5] = power.s5;
    sums[6] = power.s6;
  }
}

// Elements as they are where e^x neither over- nor underflows; beyond, its ends.
template <class T>
__device__ __forceinline__ T clamp_both(T u) {
  const T highest = -ExpConstants<T>::lowest;
  u = clamp_exponent(u);
  return u < highest ? u : highest;
}

// l1, and the sums of expm1(u) and f(u).
template <class Tile, class T>
__device__ __forceinline__ void exact_sums(const Tile& tile, T shift, T (&sums)[3]) {
  sums[0] = sums[1] = sums[2] = 0;
#pragma unroll
  for (int i = 0; i < Tile::kElements; ++i) {
    const T v = tile.value(i);
    const ExpTerms<T> t = exp_terms_in_range(clamp_both(v - shift));
    sums[0] += l1_term<Tile>(v);
    sums[1] += t.expm1;
    sums[2] += t.excess;
  }
}

// l1, and the sums of e^u and u e^u.
template <class Tile, class T>
__device__ __forceinline__ void plain_sums(const Tile& tile, T shift, T (&sums)[3]) {
  sums[0] = sums[1] = sums[2] = 0;
#pragma unroll
  for (int i = 0; i < Tile::kElements; ++i) {
    const T v = tile.value(i);
    const T u = clamp_both(v - shift);
    T e;
    if constexpr (sizeof(T) == 4) {
      e = exp2_in_range(u * ExpConstants<float>::log2_e);
    } else {
      e = exp_in_range(u);
    }
    sums[0] += l1_term<Tile>(v);
    sums[1] += e;
    sums[2] += u * e;
  }
}

// The sum, the sum of absolute values, the highest and minus the lowest.
template <class Tile, class T>
__device__ __forceinline__ void moments(const Tile& tile, int count, T (&sums)[4]) {
  const int valid = Tile::valid(count);
  sums[0] = sums[1] = 0;
  sums[2] = sums[3] = -T(__builtin_inf());
#pragma unroll
  for (int i = 0; i < Tile::kElements; ++i) {
    const T v = tile.value(i);
    sums[0] += v;
    sums[1] += magnitude(v);
    if (i < valid) {
      sums[2] = v > sums[2] ? v : sums[2];
      sums[3] = -v > sums[3] ? -v : sums[3];
    }
  }
}

// values -> totals over the block, the last kMaxima of them maxima: in the precision of the values
// over eight threads, then in float64. The totals are there for all threads. An eighth of the block
// adds up each: a warp of a large one, four lanes of a small one.
template <int kMaxima, int kCount, class T, int kThreads, int kStatistics>
__device__ __forceinline__ void block_totals(const T (&values)[kCount],
                                             T (&of_thread)[kStatistics][kThreads],
                                             double (&totals)[kStatistics]) {
  constexpr int kLanes = kThreads / 8;
  static_assert(kCount <= kStatistics && kStatistics <= 8 && kLanes <= kWarp);
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
#pragma unroll
  for (int s = 0; s < kCount; ++s) of_thread[s][threadIdx.x] = values[s];
  __syncthreads();
  if (group < kCount || kLanes < kWarp) {  // every lane of a warp comes to the shuffles
    const int s = group < kCount ? group : 0;
    const bool maximum = kMaxima > 0 && s >= kCount - kMaxima;
    const auto joined = [&](auto a, auto b) { return maximum ? (a > b ? a : b) : a + b; };
    // Groups of one warp begin elsewhere each: the rows of of_thread are in the same banks.
    const int first = kLanes < kWarp ? group : 0;
    T few = of_thread[s][lane + first * kLanes];
#pragma unroll
    for (int i = 1; i < 8; ++i) {
      few = joined(few, of_thread[s][lane + (first + i) % 8 * kLanes]);
    }
    double total = double(few);
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      total = joined(total, __shfl_xor_sync(kAllLanes, total, distance));
    }
    if (lane == 0 && group < kCount) totals[s] = total;
  }
  __syncthreads();
}

}  // namespace
}  // namespace sdd
