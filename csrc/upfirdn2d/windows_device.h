// upfirdn2d on the GPU by windows: a thread for each output, all terms of its window in a loop. For
// any filter and any factors.
#pragma once

#include "../common/device_elements.h"
#include "upfirdn2d_kernel.h"

namespace sdd {
namespace {

constexpr int kThreads = 128;
constexpr int kFewBlocks = 5;      // 96 registers, for what takes more
constexpr int kChannels = 4;       // in a pack: few enough for a strip's registers
constexpr int kStagedTaps = 1024;  // longer filters are not copied to shared memory

// Element i of f in memory.
__device__ __forceinline__ double value_of(const Filter& f, int64_t i) {
  switch (f.element) {
    case Element::kFloat64:
      return static_cast<const double*>(f.taps)[i];
    case Element::kFloat32:
      return double(static_cast<const float*>(f.taps)[i]);
    case Element::kFloat16:
      return double(widened(static_cast<const __half*>(f.taps)[i]));
    case Element::kBFloat16:
      return double(widened(static_cast<const __nv_bfloat16*>(f.taps)[i]));
  }
  return 0;
}

// Tap a of a filter of one dimension, in the order of formula (1).
__device__ __forceinline__ double tap_of(const Filter& f, int64_t taps, int64_t a) {
  return value_of(f, (f.flip ? a : taps - 1 - a) * f.column_stride);
}

// The taps that window kernels use: those of columns and of rows if separable, all otherwise.
__device__ __forceinline__ double window_tap(const Upfirdn2d& c, int64_t i) {
  const Filter& f = c.filter;
  if (f.separable) {
    return i < c.rows.taps ? tap_of(f, c.rows.taps, i) * f.gain
                           : tap_of(f, c.rows.taps, i - c.rows.taps);
  }
  const int64_t at = f.flip ? i : c.rows.taps * c.columns.taps - 1 - i;
  return value_of(f, at / c.columns.taps * f.row_stride + at % c.columns.taps * f.column_stride) *
         f.gain;
}

// x: [images, channels, rows.in, columns.in, granule] of any strides -> y, dense; `packs` of them
template <class Stored, int N>
__global__ void __launch_bounds__(kThreads, kFewBlocks)
    upfirdn2d_windows(Upfirdn2d c, int64_t packs) {
  using C = Compute<Stored>;
  __shared__ C staged[kStagedTaps];
  const int64_t taps = c.filter.separable ? 2 * c.rows.taps : c.rows.taps * c.columns.taps;
  const bool short_filter = taps <= kStagedTaps;
  for (int i = int(threadIdx.x); short_filter && i < taps; i += kThreads) {
    staged[i] = C(window_tap(c, i));
  }
  __syncthreads();
  const int64_t pack = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (pack >= packs) return;
  const auto tap = [&](int64_t i) { return short_filter ? staged[i] : C(window_tap(c, i)); };

  const int64_t in_pixel = c.granule / N;
  const int64_t pixel = pack / in_pixel, line = pixel / c.columns.out;
  const int64_t plane = line / c.rows.out;
  const ResampleWindow down = clipped_window(c.rows, line % c.rows.out);
  const ResampleWindow along = clipped_window(c.columns, pixel % c.columns.out);
  const Stored* x = static_cast<const Stored*>(c.x) + plane / c.channels * c.image_stride +
                    plane % c.channels * c.channel_stride + pack % in_pixel * N;
  C sum[N] = {};
  for (int64_t j = 0; j < down.count; ++j) {
    const int64_t a = down.phase + (down.skip + j) * c.rows.up;
    const int64_t tap_line = c.filter.separable ? c.rows.taps : a * c.columns.taps;
    int64_t from = (down.index + j) * c.row_stride + along.index * c.pixel_stride;
    C of_row[N] = {};
    for (int64_t k = 0; k < along.count; ++k) {
      const C t = tap(tap_line + along.phase + (along.skip + k) * c.columns.up);
      const auto elements = load_pack<N>(x + from);
#pragma unroll
      for (int n = 0; n < N; ++n) of_row[n] += t * widened(elements[n]);
      from += c.pixel_stride;
    }
    const C t = c.filter.separable ? tap(a) : C(1);
#pragma unroll
    for (int n = 0; n < N; ++n) sum[n] += t * of_row[n];
  }
  Pack<Stored, N> result;
#pragma unroll
  for (int n = 0; n < N; ++n) result[n] = narrowed<Stored>(sum[n]);
  store_pack(static_cast<Stored*>(c.y) + pack * N, result);
}

template <class Stored>
void windows(const Upfirdn2d& c, Stream stream) {
  const int64_t elements = c.images * c.channels * c.rows.out * c.columns.out * c.granule;
  const auto run = [&](auto kernel, int64_t packs) {
    launch("upfirdn2d", kernel, dim3(unsigned(divide_up(packs, kThreads))), kThreads, stream, c,
           packs);
  };
  constexpr int N = sizeof(Stored) == 8 ? 2 : kChannels;
  const bool packs = (c.granule | c.pixel_stride | c.row_stride | c.image_stride) % N == 0 &&
                     aligned_for_packs(c.x, c.y);
  packs ? run(upfirdn2d_windows<Stored, N>, elements / N)
        : run(upfirdn2d_windows<Stored, 1>, elements);
}

}  // namespace
}  // namespace sdd
