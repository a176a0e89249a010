// Sums over warps and blocks, always in the same order: the same bits in every run.
#pragma once

#include "launch.h"

namespace sdd {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

// The sum over the lanes of a warp, in each of them. Every lane must come here.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// The sum over the threads of a block of kThreads, in thread 0. Every thread must come here.
template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T value) {
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp);
  __shared__ T of_warp[kThreads / kWarp];
  value = warp_sum(value);
  __syncthreads();  // of_warp may still be read from the call before
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x != 0) return value;
  T total = of_warp[0];
  for (int w = 1; w < kThreads / kWarp; ++w) total += of_warp[w];
  return total;
}

}  // namespace
}  // namespace sdd
