// Sums over warps and blocks, always in the same order: the same bits in every run.
#pragma once

#include "device_elements.h"

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

// The second step of a sum over everything but the channels, and perhaps the samples: what blocks
// and warps left behind is added up in a fixed order.
constexpr int kSumThreads = 128;
constexpr int64_t kFewParts = 64;
constexpr int64_t kManySums = 32768;

// parts: [batch, outer, channels, inner] -> out: [batch, channels], a block for each element
template <class Stored>
__global__ void __launch_bounds__(kSumThreads)
    sum_many_parts(const double* __restrict__ parts, Stored* __restrict__ out, int64_t outer,
                   int64_t channels, int64_t inner) {
  const int64_t sample = blockIdx.x / channels, channel = blockIdx.x % channels;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < outer * inner; i += kSumThreads) {
    sum += parts[((sample * outer + i / inner) * channels + channel) * inner + i % inner];
  }
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = narrowed<Stored>(Compute<Stored>(sum));
}

// The same, a thread for each element.
template <class Stored>
__global__ void __launch_bounds__(kSumThreads)
    sum_few_parts(const double* __restrict__ parts, Stored* __restrict__ out, int64_t batch,
                  int64_t outer, int64_t channels, int64_t inner) {
  const int64_t element = blockIdx.x * int64_t(kSumThreads) + threadIdx.x;
  if (element >= batch * channels) return;
  const int64_t sample = element / channels, channel = element % channels;
  double sum = 0;
  for (int64_t o = 0; o < outer; ++o) {
    const double* part = parts + ((sample * outer + o) * channels + channel) * inner;
    for (int64_t i = 0; i < inner; ++i) sum += part[i];
  }
  out[element] = narrowed<Stored>(Compute<Stored>(sum));
}

template <class Stored>
void channel_sums(const double* parts, Stored* out, int64_t batch, int64_t outer, int64_t channels,
                  int64_t inner, Stream stream) {
  const int64_t elements = batch * channels;
  if (outer * inner <= kFewParts || elements >= kManySums) {
    launch("channel_sums", sum_few_parts<Stored>, dim3(unsigned(divide_up(elements, kSumThreads))),
           kSumThreads, stream, parts, out, batch, outer, channels, inner);
  } else {
    launch("channel_sums", sum_many_parts<Stored>, dim3(unsigned(elements)), kSumThreads, stream,
           parts, out, outer, channels, inner);
  }
}

}  // namespace
}  // namespace sdd
