// The gradient on the GPU, equation (6): every block reads its piece of a row into registers, and
// one of its threads, meanwhile, what (6) takes of the row. The channels of an abs-mean map are
// read twice, the second time from the caches: a piece of all of them takes little space there.
#pragma once

#include "../common/device_elements.h"
#include "../common/fast_divide.h"
#include "softmax_entropy_l1_device.h"
#include "softmax_entropy_l1_kernel.h"

namespace sdd {
namespace {

constexpr int kGradientThreads = 256;
constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;  // of one launch

// Of a thread: two packs, or of every channel as many as registers hold.
template <class Stored, bool kAbsMean>
constexpr int kGradientElements = (kAbsMean && sizeof(Stored) == 2 ? 1 : 2) * kPack<Stored>;

// Where the i-th element of a thread is in the piece of its block.
template <class Stored>
__device__ __forceinline__ int gradient_place(bool packs, int i) {
  constexpr int N = kPack<Stored>;
  const int thread = int(threadIdx.x);
  return packs ? (i / N * kGradientThreads + thread) * N + i % N : i * kGradientThreads + thread;
}

// packs: there are as many elements as the block can take, and 16 bytes of them are read at once.
template <class Stored, int kCount>
__device__ __forceinline__ void read_elements(const Stored* __restrict__ x, int count, bool packs,
                                              Elements<Stored, kCount>& elements) {
  if (packs) {
    using Word = typename Elements<Stored, kCount>::Word;
    constexpr int N = kPack<Stored>, words = kPack<Word>;
    Pack<Word, words> pack[kCount / N];
#pragma unroll
    for (int k = 0; k < kCount / N; ++k) {
      const Stored* from = x + gradient_place<Stored>(true, k * N);
      pack[k] = load_pack<words>(reinterpret_cast<const Word*>(from));
    }
#pragma unroll
    for (int i = 0; i < kCount / N * words; ++i) elements.words[i] = pack[i / words][i % words];
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int at = gradient_place<Stored>(false, i);
      elements.put(i, at < count ? x[at] : narrowed<Stored>(0));
    }
  }
}

template <class Stored, int kCount>
__device__ __forceinline__ void write_elements(Stored* __restrict__ x, int count, bool packs,
                                               const Elements<Stored, kCount>& elements) {
  if (packs) {
    using Word = typename Elements<Stored, kCount>::Word;
    constexpr int N = kPack<Stored>, words = kPack<Word>;
#pragma unroll
    for (int k = 0; k < kCount / N; ++k) {
      Pack<Word, words> pack;
#pragma unroll
      for (int w = 0; w < words; ++w) pack[w] = elements.words[k * words + w];
      store_pack(reinterpret_cast<Word*>(x + gradient_place<Stored>(true, k * N)), pack);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int at = gradient_place<Stored>(false, i);
      if (at < count) x[at] = elements.stored(i);
    }
  }
}

// x: [rows, n], or [rows, channels, n] with kAbsMean -> grad: the same, contiguous. A block for
// each of the pieces of each row.
template <class Stored, bool kAbsMean>
__global__ void __launch_bounds__(kGradientThreads, 6)
    entropy_gradient(const Stored* __restrict__ x, Stored* __restrict__ grad, GradientRows rows,
                     int64_t first_row, int64_t n, int64_t row_stride, int64_t channels,
                     int64_t channel_stride, double inverse_n, double inverse_channels,
                     FastDivide pieces, bool packs) {
  using T = Compute<Stored>;
  constexpr int of_thread = kGradientElements<Stored, kAbsMean>;
  constexpr int size = kGradientThreads * of_thread;
  __shared__ GradientTerms<T> of_row;

  const int64_t row = first_row + pieces.quotient(blockIdx.x);
  const int64_t first = pieces.remainder(blockIdx.x) * int64_t(size);
  const int count = int(n - first < size ? n - first : size);
  packs = packs && count == size;
  x += row * row_stride + first;
  grad += row * (kAbsMean ? channels : 1) * n + first;
  Elements<Stored, of_thread> elements;
  if constexpr (kAbsMean) {
    const T inverse = T(inverse_channels);
    T map[of_thread];
    double common = 0;  // of the channels, in thread 0
#pragma unroll
    for (int i = 0; i < of_thread; ++i) map[i] = 0;
#pragma unroll 1
    for (int64_t c = 0; c < channels; ++c) {
      read_elements(x + c * channel_stride, count, packs, elements);
      // As in load_tile(): what the |x_c| have in common must not cost their sum its precision.
      T near = magnitude(widened(x[c * channel_stride]));
      near = near < T(__builtin_inf()) ? near : T(0);
#pragma unroll
      for (int i = 0; i < of_thread; ++i) {
        map[i] += (magnitude(elements.value(i)) - near) * inverse;
      }
      if (threadIdx.x == 0) common += double(near);
    }
    if (threadIdx.x == 0)
      of_row = gradient_terms<T>(rows, row, inverse_n, common * inverse_channels);
    __syncthreads();
    const GradientTerms<T> g = of_row;
    // The map is never negative: it has the sign 1 wherever one of its channels has any.
#pragma unroll
    for (int i = 0; i < of_thread; ++i) {
      map[i] = (gradient_of_entry(map[i], g) + g.l1) * inverse;
    }
#pragma unroll 1
    for (int64_t c = 0; c < channels; ++c) {
      read_elements(x + c * channel_stride, count, packs, elements);
#pragma unroll
      for (int i = 0; i < of_thread; ++i) {
        elements.put(i, narrowed<Stored>(with_sign(elements.value(i), map[i])));
      }
      write_elements(grad + c * n, count, packs, elements);
    }
  } else {
    read_elements(x, count, packs, elements);
    if (threadIdx.x == 0) of_row = gradient_terms<T>(rows, row, inverse_n, 0);
    __syncthreads();
    const GradientTerms<T> g = of_row;
#pragma unroll
    for (int i = 0; i < of_thread; ++i) {
      const T v = elements.value(i);
      elements.put(i, narrowed<Stored>(gradient_of_entry(v, g) + with_sign(v, g.l1)));
    }
    write_elements(grad, count, packs, elements);
  }
}

template <class Stored, bool kAbsMean>
void gradient_of(const EntropyMaps& c, const GradientRows& of_rows, void* out, Stream stream) {
  constexpr int64_t size = kGradientThreads * kGradientElements<Stored, kAbsMean>;
  const auto* x = static_cast<const Stored*>(c.x);
  auto* grad = static_cast<Stored*>(out);
  const auto divisible = [](int64_t stride) { return stride % kPack<Stored> == 0; };
  const bool packs = aligned_for_packs(x, grad) && divisible(c.n) && divisible(c.row_stride) &&
                     divisible(c.channel_stride);
  const int64_t pieces = divide_up(c.n, size), most = kMaxBlocks / pieces;
  for (int64_t row = 0; row < c.rows; row += most) {
    const int64_t rows = c.rows - row < most ? c.rows - row : most;
    launch("softmax_entropy_l1_backward", entropy_gradient<Stored, kAbsMean>,
           dim3(unsigned(rows * pieces)), kGradientThreads, stream, x, grad, of_rows, row, c.n,
           c.row_stride, c.channels, c.channel_stride, 1 / double(c.n), 1 / double(c.channels),
           FastDivide(pieces), packs);
  }
}

}  // namespace
}  // namespace sdd
