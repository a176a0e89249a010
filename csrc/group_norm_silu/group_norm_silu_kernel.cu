// group_norm_silu on the GPU, forward and backward. Formulas: group_norm_silu.h.
//
// Two passes over the maps each way, and between them a small kernel. Several blocks share a group,
// as one sample has few: in group_norm_sums() they leave two partial sums for every channel, which
// a block for each group adds up in a fixed order, and group_norm_apply() follows. A thread stays
// with one channel or pack of channels (layout_device.h), whose factors it computes once.
#include <algorithm>

#include "../common/device_sums.h"
#include "layout_device.h"

namespace sdd {
namespace {

constexpr int kShiftElements = 8;

// What becomes of the elements of a channel is told by its group and parameters.
template <class C>
struct Parameters {
  AnyElements<C> weight, bias;
  const double* mean;
  const double* rstd;
};

// The factors of (6) of the channels of a thread.
template <class C, int N, bool kInside>
struct Factors {
  Affine<C> of[kInside ? N : 1];

  __device__ __forceinline__ const Affine<C>& operator[](int j) const {
    return of[kInside ? j : 0];
  }
};

// make(channel) for them: once in a block where channels are inside.
template <class Stored, int N, bool kInside, class C, class Make>
__device__ __forceinline__ Factors<C, N, kInside> factors_of(const Layout& layout, const Walk& walk,
                                                             const Make& make) {
  Factors<C, N, kInside> factors{};
  if constexpr (kInside) {
    constexpr int columns = kColumns<Stored, N>, width = columns * N;
    __shared__ Affine<C> shared[width];
    const int64_t channel = layout.across.remainder(blockIdx.x) * int64_t(width) + threadIdx.x;
    if (threadIdx.x < width) {
      shared[threadIdx.x] = channel < layout.channels ? make(channel) : Affine<C>{};
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < N; ++j) factors.of[j] = shared[threadIdx.x % columns * N + j];
  } else if (walk.count > 0) {
    factors.of[0] = make(walk.channel);
  }
  return factors;
}

template <class C>
__device__ __forceinline__ Affine<C> affine_at(const Parameters<C>& p, const Layout& layout,
                                               int64_t sample, int64_t channel) {
  const int64_t group = sample * layout.per_group.quotient(uint32_t(layout.channels)) +
                        layout.per_group.quotient(uint32_t(channel));
  return affine_of<C>({p.mean[group], p.rstd[group]}, double(p.weight[channel]),
                      double(p.bias[channel]));
}

// The shift of (5): the mean of a few elements of the group, of which one may stand out.
template <class Stored>
__device__ __forceinline__ Compute<Stored> shift_of(const Stored* x, const Layout& layout,
                                                    bool inside, int64_t sample, int64_t group) {
  const int64_t per_group = layout.per_group.divisor;
  Compute<Stored> sum = 0;
#pragma unroll
  for (int i = 0; i < kShiftElements; ++i) {
    const int64_t channel = group * per_group + i % 2 * (per_group - 1);
    const int64_t pixel = layout.pixels / kShiftElements * i;
    const int64_t at = inside ? pixel * layout.channels + channel : channel * layout.pixels + pixel;
    sum += widened(x[sample * layout.channels * layout.pixels + at]);
  }
  return sum / kShiftElements;
}

// Adds up a, b: [N] of all threads with the same channels into parts, of which there are two.
template <class Stored, int N, bool kInside, class C>
__device__ __forceinline__ void leave_sums(const Layout& layout, const Walk& walk, double* parts,
                                           const C (&a)[N], const C (&b)[N]) {
  if constexpr (kInside) {
    constexpr int columns = kColumns<Stored, N>, lines = kThreads / columns, width = columns * N;
    __shared__ C sums[2][lines][width];
    const int column = threadIdx.x % columns, line = threadIdx.x / columns;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      sums[0][line][column * N + j] = a[j];
      sums[1][line][column * N + j] = b[j];
    }
    __syncthreads();
    const int64_t first = layout.across.remainder(blockIdx.x) * int64_t(width);
    for (int i = threadIdx.x; i < 2 * width; i += kThreads) {
      const int which = i / width, place = i % width;
      if (first + place >= layout.channels) continue;
      double total = 0;
      for (int l = 0; l < lines; ++l) total += double(sums[which][l][place]);
      parts[(walk.part + place) * 2 + which] = total;
    }
  } else {
    double first = 0, second = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      first += double(a[j]);
      second += double(b[j]);
    }
    first = warp_sum(first);
    second = warp_sum(second);
    if (threadIdx.x % kWarp == 0 && walk.channel < layout.channels) {
      parts[walk.part * 2] = first;
      parts[walk.part * 2 + 1] = second;
    }
  }
}

template <class C>
__device__ __forceinline__ C gradient_of(bool silu, C grad, C z) {
  return silu ? activation_gradient<true>(grad, z) : grad;
}

// x: [samples, ...], grad: [cotangents, samples, ...] -> parts: [.., tiles, channels, pieces, 2],
// the sums of (5), or backward of (7)
template <class Stored, int N, bool kInside, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2)
    group_norm_sums(const Stored* __restrict__ x, const Stored* __restrict__ grad,
                    double* __restrict__ parts, Parameters<Compute<Stored>> parameters,
                    Layout layout, int64_t first_sample, bool silu) {
  using C = Compute<Stored>;
  const int64_t sample = first_sample + blockIdx.y, of_x = sample % layout.samples;
  const int64_t size = layout.channels * layout.pixels;
  const Walk walk = walk_of<Stored, N, kInside>(layout);
  const auto factors = factors_of<Stored, N, kInside, C>(layout, walk, [&](int64_t channel) {
    if constexpr (kBackward) return affine_at(parameters, layout, of_x, channel);
    const int64_t group = layout.per_group.quotient(uint32_t(channel));
    return Affine<C>{shift_of(x, layout, kInside, of_x, group), 0, 0};
  });
  const Stored* from = x + of_x * size + walk.at;
  const Stored* of_y = kBackward ? grad + sample * size + walk.at : nullptr;
  C a[N] = {}, b[N] = {};
  for_each_pack<N, kBackward>(walk, from, of_y, [&](int64_t, const auto& elements, const auto& g) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const Affine<C>& f = factors[j];
      const C centered = widened(elements[j]) - f.shift;
      C term = centered;
      if constexpr (kBackward) {
        term = f.scale * gradient_of(silu, widened(g[j]), centered * f.scale + f.offset);
      }
      a[j] += term;
      b[j] += term * centered;
    }
  });
  leave_sums<Stored, N, kInside>(
      layout, walk, parts + sample * layout.channels * layout.parts(kInside) * 2, a, b);
}

// The two sums of a group in all parts, in thread 0.
struct Sums {
  double first, second;
};

__device__ __forceinline__ Sums sums_of_group(const double* __restrict__ parts,
                                              const Layout& layout, bool inside, int64_t sample,
                                              int64_t group) {
  const int64_t per_group = layout.per_group.divisor, pieces = inside ? 1 : layout.across.divisor;
  const int64_t run = per_group * pieces, line = layout.channels * pieces;
  const double* from = parts + (sample * layout.tiles * line + group * run) * 2;
  double first = 0, second = 0;
  for (int64_t i = threadIdx.x; i < layout.tiles * run; i += kSumThreads) {
    const double* part = from + (i / run * line + i % run) * 2;
    first += part[0];
    second += part[1];
  }
  first = block_sum<kSumThreads>(first);
  second = block_sum<kSumThreads>(second);
  return {first, second};
}

// (1) of the groups, a block for each; blockIdx.y: samples
template <class Stored>
__global__ void __launch_bounds__(kSumThreads)
    group_norm_statistics(const double* __restrict__ parts, const Stored* __restrict__ x,
                          double* mean, double* rstd, Layout layout, bool inside,
                          int64_t first_sample, double eps) {
  const int64_t sample = first_sample + blockIdx.y, group = blockIdx.x;
  const Sums sums = sums_of_group(parts, layout, inside, sample, group);
  if (threadIdx.x != 0) return;
  const double shift = double(shift_of(x, layout, inside, sample, group));
  const double count = double(layout.per_group.divisor) * double(layout.pixels);
  const GroupStatistics g = group_statistics(sums.first, sums.second, shift, count, eps);
  mean[sample * gridDim.x + group] = g.mean;
  rstd[sample * gridDim.x + group] = g.rstd;
}

// slope and rest of (7), likewise: [cotangents, samples, groups]
template <class C>
__global__ void __launch_bounds__(kSumThreads)
    group_norm_slopes(const double* __restrict__ parts, const double* __restrict__ mean,
                      const double* __restrict__ rstd, GroupSlope<C>* __restrict__ slopes,
                      Layout layout, bool inside, int64_t first_sample) {
  const int64_t sample = first_sample + blockIdx.y, group = blockIdx.x;
  const Sums sums = sums_of_group(parts, layout, inside, sample, group);
  if (threadIdx.x != 0) return;
  const int64_t of_x = sample % layout.samples * gridDim.x + group;
  const double count = double(layout.per_group.divisor) * double(layout.pixels);
  slopes[sample * gridDim.x + group] =
      group_slope<C>({mean[of_x], rstd[of_x]}, sums.first, sums.second, count);
}

// y of (2), or (7) of x and grad
template <class Stored, int N, bool kInside, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2)
    group_norm_apply(const Stored* __restrict__ x, const Stored* __restrict__ grad,
                     Stored* __restrict__ out, Parameters<Compute<Stored>> parameters,
                     const GroupSlope<Compute<Stored>>* __restrict__ slopes, Layout layout,
                     int64_t first_sample, bool silu) {
  using C = Compute<Stored>;
  const int64_t sample = first_sample + blockIdx.y, of_x = sample % layout.samples;
  const int64_t size = layout.channels * layout.pixels;
  const Walk walk = walk_of<Stored, N, kInside>(layout);
  const auto factors = factors_of<Stored, N, kInside, C>(
      layout, walk, [&](int64_t channel) { return affine_at(parameters, layout, of_x, channel); });
  GroupSlope<C> slope[kInside ? N : 1] = {};
  if constexpr (kBackward) {
    const int64_t groups = layout.per_group.quotient(uint32_t(layout.channels));
#pragma unroll
    for (int j = 0; j < (kInside ? N : 1); ++j) {
      if (walk.count == 0) continue;
      slope[j] = slopes[sample * groups + layout.per_group.quotient(uint32_t(walk.channel + j))];
    }
  }
  const Stored* from = x + of_x * size + walk.at;
  const Stored* of_y = kBackward ? grad + sample * size + walk.at : nullptr;
  Stored* to = out + sample * size + walk.at;
  for_each_pack<N, kBackward>(walk, from, of_y, [&](int64_t i, auto& elements, const auto& g) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const Affine<C>& f = factors[j];
      const C centered = widened(elements[j]) - f.shift;
      const C z = centered * f.scale + f.offset;
      C result;
      if constexpr (kBackward) {
        const GroupSlope<C>& s = slope[kInside ? j : 0];
        result = f.scale * gradient_of(silu, widened(g[j]), z) - centered * s.slope - s.rest;
      } else {
        result = silu ? activated<true>(z) : z;
      }
      elements[j] = narrowed<Stored>(result);
    }
    store_at_once(to + i, elements);
  });
}

// body(Stored{}, Count<N>{}, inside) for the elements, packs and order of c
template <class Body>
void with_kind(const GroupNorm& c, const Body& body) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    constexpr int N = kElements<Stored>;
    using Packs = std::integral_constant<int, N>;
    using Single = std::integral_constant<int, 1>;
    const int64_t neighbors = c.channels_inside ? c.channels : c.pixels;
    const bool packs = neighbors % N == 0 && aligned_for_packs(c.x, c.out) &&
                       (c.grad == nullptr || aligned_for_packs(c.grad));
    const auto with_order = [&](auto n) {
      c.channels_inside ? body(zero, n, std::true_type{}) : body(zero, n, std::false_type{});
    };
    packs ? with_order(Packs{}) : with_order(Single{});
  });
}

template <class Stored, int N, bool kInside, bool kBackward>
void passes(const GroupNorm& c, Stream stream) {
  using C = Compute<Stored>;
  const Layout layout = layout_of<Stored, N, kInside>(c);
  const Parameters<C> parameters{
      {c.weight, c.parameter_element}, {c.bias, c.parameter_element}, c.mean, c.rstd};
  const auto* x = static_cast<const Stored*>(c.x);
  const auto* grad = static_cast<const Stored*>(c.grad);
  auto* out = static_cast<Stored*>(c.out);
  const int64_t samples = c.cotangents * c.samples;
  double* parts = c.workspace;
  auto* slopes =
      reinterpret_cast<GroupSlope<C>*>(parts + samples * c.channels * layout.parts(kInside) * 2);
  const int64_t blocks = kInside ? layout.tiles * layout.across.divisor
                                 : divide_up(c.channels * layout.across.divisor, kThreads / kWarp);
  for (int64_t first = 0; first < samples; first += kMaxGrid) {
    const auto many = unsigned(std::min(kMaxGrid, samples - first));
    const dim3 grid(unsigned(blocks), many), groups(unsigned(c.groups), many);
    launch("group_norm_silu", group_norm_sums<Stored, N, kInside, kBackward>, grid, kThreads,
           stream, x, grad, parts, parameters, layout, first, c.silu);
    if constexpr (kBackward) {
      launch("group_norm_silu", group_norm_slopes<C>, groups, kSumThreads, stream, parts, c.mean,
             c.rstd, slopes, layout, kInside, first);
    } else {
      launch("group_norm_silu", group_norm_statistics<Stored>, groups, kSumThreads, stream, parts,
             x, c.mean, c.rstd, layout, kInside, first, c.eps);
    }
    launch("group_norm_silu", group_norm_apply<Stored, N, kInside, kBackward>, grid, kThreads,
           stream, x, grad, out, parameters, slopes, layout, first, c.silu);
  }
}

}  // namespace

int64_t group_norm_silu_workspace(const GroupNorm& c) {
  int64_t size = 0;
  with_kind(c, [&](auto zero, auto n, auto inside) {
    const Layout layout = layout_of<decltype(zero), n, inside>(c);
    size = 2 * c.cotangents * c.samples * (c.channels * layout.parts(inside) + c.groups);
  });
  return size;
}

void group_norm_silu_cuda(const GroupNorm& c, Stream stream) {
  with_kind(c, [&](auto zero, auto n, auto inside) {
    using Stored = decltype(zero);
    c.grad == nullptr ? passes<Stored, n, inside, false>(c, stream)
                      : passes<Stored, n, inside, true>(c, stream);
  });
}

}  // namespace sdd
