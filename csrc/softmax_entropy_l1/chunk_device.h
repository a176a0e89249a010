// The entries of a chunk in the registers of a block of threads, and their sums over the block.
#pragma once

#include "../common/device_elements.h"
#include "../common/device_sums.h"
#include "chunk.h"

namespace sdd {
namespace {

constexpr int kThreads = 256;  // of a block

// Where the i-th entry of this thread is in what its block reads: threads take turns, by packs. It
// does not depend on the address of x: nor do the bits of the results.
template <class Stored>
__device__ __forceinline__ int place(int i) {
  constexpr int N = kPack<Stored>;
  return (i / N * kThreads + int(threadIdx.x)) * N + i % N;
}

// packs: x is aligned for them, and has all the elements that the block takes. Otherwise there are
// `count`, and zeros beyond.
template <class Stored, int kCount>
__device__ __forceinline__ void load_entries(const Stored* __restrict__ x, int count, bool packs,
                                             Compute<Stored> (&values)[kCount]) {
  if (packs) {
    constexpr int N = kPack<Stored>;
    Pack<Stored, N> pack[kCount / N];
#pragma unroll
    for (int k = 0; k < kCount / N; ++k) pack[k] = load_pack<N>(x + place<Stored>(k * N));
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = widened(pack[i / N][i % N]);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = place<Stored>(i) < count ? widened(x[place<Stored>(i)]) : 0;
    }
  }
}

template <class Stored, int kCount>
__device__ __forceinline__ void store_entries(Stored* __restrict__ x, int count, bool packs,
                                              const Compute<Stored> (&values)[kCount]) {
  if (packs) {
    constexpr int N = kPack<Stored>;
#pragma unroll
    for (int k = 0; k < kCount / N; ++k) {
      Pack<Stored, N> pack;
#pragma unroll
      for (int j = 0; j < N; ++j) pack[j] = narrowed<Stored>(values[k * N + j]);
      store_at_once(x + place<Stored>(k * N), pack);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (place<Stored>(i) < count) x[place<Stored>(i)] = narrowed<Stored>(values[i]);
    }
  }
}

// Entries of the abs-mean map of x, [channels, count], minus an offset, which thread 0 returns: a
// value near the |x_c| is taken from those of each channel, as what they have in common must not
// cost their sum its precision.
template <class Stored, int kCount>
__device__ __forceinline__ double load_abs_mean(const Stored* __restrict__ x, int count, bool packs,
                                                int64_t channels, int64_t channel_stride,
                                                Compute<Stored> (&values)[kCount]) {
  using T = Compute<Stored>;
  const T inverse = T(1) / T(channels);
  double offset = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = 0;
#pragma unroll 1
  for (int64_t c = 0; c < channels; ++c, x += channel_stride) {
    T of_channel[kCount];
    load_entries(x, count, packs, of_channel);
    T near = absolute(widened(x[0]));
    near = near < T(kInfinity) ? near : T(0);
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += (absolute(of_channel[i]) - near) * inverse;
    if (threadIdx.x == 0) offset += double(near) / double(channels);
  }
  return offset;
}

// values -> totals over the block, the last kMaxima of them maxima: in the precision of the values
// over a warp, then in float64. They are there for all threads.
template <int kMaxima = 0, int kCount, class T>
__device__ __forceinline__ void block_totals(const T (&values)[kCount], double* totals) {
  constexpr int warps = kThreads / kWarp;
  __shared__ T of_warp[warps][kCount];
  const auto joined = [](auto a, auto b, int s) {
    return s < kCount - kMaxima ? a + b : b > a ? b : a;
  };
#pragma unroll
  for (int s = 0; s < kCount; ++s) {
    T value = values[s];
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      value = joined(value, __shfl_xor_sync(kAllLanes, value, distance), s);
    }
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp][s] = value;
  }
  __syncthreads();
  if (threadIdx.x < kCount) {
    const int s = threadIdx.x;
    double total = double(of_warp[0][s]);
    for (int w = 1; w < warps; ++w) total = joined(total, double(of_warp[w][s]), s);
    totals[s] = total;
  }
  __syncthreads();
}

}  // namespace
}  // namespace sdd
