// The second step of a sum over everything but the channels: what blocks and warps left behind is
// added up in a fixed order.
#pragma once

#include "device_elements.h"
#include "reduce.h"

namespace sdd {
namespace {

constexpr int kSumThreads = 128;
constexpr int64_t kFewParts = 64;

// parts: [outer, channels, inner] -> out: [channels], a block for each channel
template <class Stored>
__global__ void __launch_bounds__(kSumThreads)
    sum_many_parts(const double* __restrict__ parts, Stored* __restrict__ out, int64_t outer,
                   int64_t channels, int64_t inner) {
  const int64_t channel = blockIdx.x;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < outer * inner; i += kSumThreads) {
    sum += parts[(i / inner * channels + channel) * inner + i % inner];
  }
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) out[channel] = narrowed<Stored>(Compute<Stored>(sum));
}

// The same, a thread for each channel.
template <class Stored>
__global__ void __launch_bounds__(kSumThreads)
    sum_few_parts(const double* __restrict__ parts, Stored* __restrict__ out, int64_t outer,
                  int64_t channels, int64_t inner) {
  const int64_t channel = blockIdx.x * int64_t(kSumThreads) + threadIdx.x;
  if (channel >= channels) return;
  double sum = 0;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < inner; ++i) sum += parts[(o * channels + channel) * inner + i];
  }
  out[channel] = narrowed<Stored>(Compute<Stored>(sum));
}

template <class Stored>
void channel_sums(const double* parts, Stored* out, int64_t outer, int64_t channels, int64_t inner,
                  Stream stream) {
  const bool few = outer * inner <= kFewParts;
  const int64_t blocks = few ? divide_up(channels, kSumThreads) : channels;
  launch("channel_sums", few ? sum_few_parts<Stored> : sum_many_parts<Stored>,
         dim3(unsigned(blocks)), kSumThreads, stream, parts, out, outer, channels, inner);
}

}  // namespace
}  // namespace sdd
