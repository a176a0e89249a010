// The second step of a sum over everything but the channels, and perhaps the samples: what blocks
// and warps left behind is added up in a fixed order.
#pragma once

#include "device_elements.h"
#include "reduce.h"

namespace sdd {
namespace {

constexpr int kSumThreads = 128;
constexpr int64_t kFewParts = 64;
constexpr int64_t kManySums = 32768;

// parts: [batch, outer, channels, inner] -> out: [batch, channels], a block for each number
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

// The same, a thread for each number.
template <class Stored>
__global__ void __launch_bounds__(kSumThreads)
    sum_few_parts(const double* __restrict__ parts, Stored* __restrict__ out, int64_t batch,
                  int64_t outer, int64_t channels, int64_t inner) {
  const int64_t number = blockIdx.x * int64_t(kSumThreads) + threadIdx.x;
  if (number >= batch * channels) return;
  const int64_t sample = number / channels, channel = number % channels;
  double sum = 0;
  for (int64_t o = 0; o < outer; ++o) {
    const double* part = parts + ((sample * outer + o) * channels + channel) * inner;
    for (int64_t i = 0; i < inner; ++i) sum += part[i];
  }
  out[number] = narrowed<Stored>(Compute<Stored>(sum));
}

template <class Stored>
void channel_sums(const double* parts, Stored* out, int64_t batch, int64_t outer, int64_t channels,
                  int64_t inner, Stream stream) {
  const int64_t numbers = batch * channels;
  if (outer * inner <= kFewParts || numbers >= kManySums) {
    launch("channel_sums", sum_few_parts<Stored>, dim3(unsigned(divide_up(numbers, kSumThreads))),
           kSumThreads, stream, parts, out, batch, outer, channels, inner);
  } else {
    launch("channel_sums", sum_many_parts<Stored>, dim3(unsigned(numbers)), kSumThreads, stream,
           parts, out, outer, channels, inner);
  }
}

}  // namespace
}  // namespace sdd
