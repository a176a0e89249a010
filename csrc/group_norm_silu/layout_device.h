// How the maps of group_norm_silu are divided among the threads of a GPU. A thread stays with a
// pack of neighbors along one plane, or with a pack of channels.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../common/device_elements.h"
#include "../common/fast_divide.h"
#include "group_norm_silu_kernel.h"

namespace sdd {
namespace {

constexpr int kThreads = 256;
// An element takes several registers: no packs of eight. No packs of float64, which no network has.
template <class Stored>
constexpr int kElements = std::is_same_v<Stored, double> ? 1 : std::min(4, kPack<Stored>);
// Packs that a thread has in flight. Single elements are the exception: half the code.
template <int N>
constexpr int kUnroll = N == 1 ? 1 : 4;
// Threads side by side in a block where channels are inside: on 128 bytes, unless these are few.
template <class Stored, int N>
constexpr int kColumns = N == 1 ? 8 : 128 / int(N * sizeof(Stored));
constexpr int64_t kMaxGrid = 65535;  // in y
constexpr int64_t kMostPacks = 32;   // of a thread: as many terms are added up in its precision
constexpr int64_t kFewestPacks = 4;
constexpr int64_t kEnoughThreads = 1 << 17;

// How the maps of a sample are divided. Channels inside: tiles of pixels, and of each `across` runs
// of columns. Else: every plane is cut into `across` pieces, a warp for each.
struct Layout {
  int64_t samples, channels, pixels;
  int64_t length;  // of a tile or piece, in pixels
  int64_t tiles;   // 1 where planes are cut
  FastDivide across;
  FastDivide per_group;

  SDD_FN int64_t parts(bool inside) const {  // of a channel
    return inside ? tiles : int64_t(across.divisor);
  }
  SDD_FN int64_t end_of(int64_t stop) const { return stop < pixels ? stop : pixels; }
};

// The packs of a thread: `count` of them, `step` apart from element `at` of the sample on. All
// belong to `channel`, or to the channels from there on. part: where its sums go.
struct Walk {
  int64_t at, step, channel, part;
  int64_t count;
};

template <class Stored, int N, bool kInside>
__device__ __forceinline__ Walk walk_of(const Layout& layout) {
  constexpr int columns = kColumns<Stored, N>;
  if constexpr (kInside) {
    constexpr int lines = kThreads / columns;
    const int64_t tile = layout.across.quotient(blockIdx.x);
    const int64_t run = layout.across.remainder(blockIdx.x);
    const int64_t channel = (run * columns + threadIdx.x % columns) * N;
    const int64_t first = tile * layout.length + threadIdx.x / columns;
    const int64_t end = layout.end_of((tile + 1) * layout.length);
    const int64_t count =
        channel < layout.channels && first < end ? divide_up(end - first, lines) : 0;
    return {first * layout.channels + channel, lines * layout.channels, channel,
            tile * layout.channels + run * columns * N, count};
  }
  const uint32_t warp = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t channel = layout.across.quotient(warp);
  const int64_t begin = layout.across.remainder(warp) * layout.length;
  const int64_t first = begin + threadIdx.x % kWarp * N;
  const int64_t end = layout.end_of(begin + layout.length);
  const int64_t count =
      channel < layout.channels && first < end ? divide_up(end - first, kWarp * N) : 0;
  return {channel * layout.pixels + first, kWarp * N, channel, warp, count};
}

// How the maps are divided depends on their shape alone.
template <class Stored, int N, bool kInside>
Layout layout_of(const GroupNorm& c) {
  constexpr int columns = kColumns<Stored, N>;
  const int64_t threads = divide_up(c.cotangents * c.samples * c.channels * c.pixels, N);
  int64_t packs = kMostPacks;
  while (packs > kFewestPacks && threads / packs < kEnoughThreads) packs /= 2;
  Layout layout{};
  layout.samples = c.samples;
  layout.channels = c.channels;
  layout.pixels = c.pixels;
  layout.length = packs * (kInside ? kThreads / columns : kWarp * N);
  const int64_t pieces = divide_up(c.pixels, layout.length);
  layout.tiles = kInside ? pieces : 1;
  layout.across = FastDivide(kInside ? divide_up(c.channels, columns * N) : pieces);
  layout.per_group = FastDivide(c.channels / c.groups);
  return layout;
}

// body(i, elements, g) for the packs of a thread, i elements from the first of them on.
template <int N, bool kBackward, class Stored, class Body>
__device__ __forceinline__ void for_each_pack(const Walk& walk, const Stored* x, const Stored* grad,
                                              const Body& body) {
  constexpr int many = kUnroll<N>;
#pragma unroll 1
  for (int64_t k = 0; k < walk.count; k += many) {
    Pack<Stored, N> elements[many], g[many];
#pragma unroll
    for (int u = 0; u < many; ++u) {
      if (k + u >= walk.count) continue;
      elements[u] = load_pack<N>(x + (k + u) * walk.step);
      if constexpr (kBackward) g[u] = load_pack<N>(grad + (k + u) * walk.step);
    }
#pragma unroll
    for (int u = 0; u < many; ++u) {
      if (k + u < walk.count) body((k + u) * walk.step, elements[u], g[u]);
    }
  }
}

}  // namespace
}  // namespace sdd
