// The gradient on the GPU, equation (6): every block reads its piece of a row into registers, and
// one of its threads, meanwhile, what (6) takes of the row. The channels of an abs-mean map are
// read twice, the second time from the caches: a piece of all of them takes little space there.
#pragma once

#include "../common/fast_divide.h"
#include "chunk_device.h"

namespace sdd {
namespace {

constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;  // of one launch

// Of a thread: two packs, or of every channel as many as registers hold.
template <class Stored, bool kAbsMean>
constexpr int kGradientEntries = (kAbsMean && sizeof(Stored) == 2 ? 1 : 2) * kPack<Stored>;

// x: [rows, n], or [rows, channels, n] with kAbsMean -> grad: the same, contiguous. A block for
// each of the pieces of each row.
template <class Stored, bool kAbsMean>
__global__ void __launch_bounds__(kThreads, 5)
    entropy_gradient(const Stored* __restrict__ x, Stored* __restrict__ grad, GradientRows rows,
                     int64_t first_row, int64_t n, int64_t row_stride, int64_t channels,
                     int64_t channel_stride, FastDivide pieces, bool packs) {
  using T = Compute<Stored>;
  constexpr int entries = kGradientEntries<Stored, kAbsMean>, size = kThreads * entries;
  __shared__ GradientTerms<T> of_row;

  const int64_t row = first_row + pieces.quotient(blockIdx.x);
  const int64_t first = pieces.remainder(blockIdx.x) * int64_t(size);
  const int count = int(n - first < size ? n - first : size);
  packs = packs && count == size;
  x += row * row_stride + first;
  grad += row * (kAbsMean ? channels : 1) * n + first;
  T values[entries];
  double offset = 0;  // of the entries, in thread 0
  if constexpr (kAbsMean) {
    offset = load_abs_mean(x, count, packs, channels, channel_stride, values);
  } else {
    load_entries(x, count, packs, values);
  }
  if (threadIdx.x == 0) of_row = gradient_terms<T>(rows, row, 1 / double(n), offset);
  __syncthreads();
  const GradientTerms<T> g = of_row;
  if constexpr (kAbsMean) {
    // The map is never negative: it has the sign 1 wherever one of its channels has any.
    const T inverse = T(1) / T(channels);
#pragma unroll
    for (int i = 0; i < entries; ++i)
      values[i] = (gradient_of_entry(values[i], g) + g.l1) * inverse;
#pragma unroll 1
    for (int64_t c = 0; c < channels; ++c) {
      T of_channel[entries];
      load_entries(x + c * channel_stride, count, packs, of_channel);
#pragma unroll
      for (int i = 0; i < entries; ++i) of_channel[i] = with_sign(of_channel[i], values[i]);
      store_entries(grad + c * n, count, packs, of_channel);
    }
  } else {
#pragma unroll
    for (int i = 0; i < entries; ++i) {
      values[i] = gradient_of_entry(values[i], g) + with_sign(values[i], g.l1);
    }
    store_entries(grad, count, packs, values);
  }
}

template <class Stored, bool kAbsMean>
void gradient_of(const EntropyMaps& c, const GradientRows& of_rows, void* out, Stream stream) {
  constexpr int64_t size = kThreads * kGradientEntries<Stored, kAbsMean>;
  const auto* x = static_cast<const Stored*>(c.x);
  auto* grad = static_cast<Stored*>(out);
  const auto divisible = [](int64_t stride) { return stride % kPack<Stored> == 0; };
  const bool packs = aligned_for_packs(x, grad) && divisible(c.n) && divisible(c.row_stride) &&
                     divisible(c.channel_stride);
  const int64_t pieces = divide_up(c.n, size), most = kMaxBlocks / pieces;
  for (int64_t row = 0; row < c.rows; row += most) {
    const int64_t rows = c.rows - row < most ? c.rows - row : most;
    launch("softmax_entropy_l1_backward", entropy_gradient<Stored, kAbsMean>,
           dim3(unsigned(rows * pieces)), kThreads, stream, x, grad, of_rows, row, c.n,
           c.row_stride, c.channels, c.channel_stride, FastDivide(pieces), packs);
  }
}

}  // namespace
}  // namespace sdd
