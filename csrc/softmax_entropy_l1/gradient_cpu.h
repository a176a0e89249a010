// The gradient of a chunk on the CPU, equation (6): its entries are read once more, and as many
// elements written.
#pragma once

#include "chunk_cpu.h"

namespace sdd {
namespace {

template <class E>
void signed_gradient(const EntropyGradientChunk& c, const GradientRows& rows) {
  using T = typename E::Compute;
  const auto g = gradient_terms<T>(rows, c.row, 1 / double(c.n), 0);
  const auto* x = static_cast<const typename E::Stored*>(c.entries.data);
  auto* grad = static_cast<typename E::Stored*>(c.grad);
  for_each_lane<E>(c.entries.count, [&](auto lane, int64_t i) {
    using V = typename decltype(lane)::T;
    const V v = lane.read(x + i);
    E::put(grad + i, V(gradient_of_entry(v, g) + with_sign(v, g.l1)));
  });
}

// The map is never negative: it has the sign 1 wherever one of its channels has any.
template <class E>
void abs_mean_gradient(const EntropyGradientChunk& c, const GradientRows& rows) {
  using T = typename E::Compute;
  const EntropyChunk& x = c.entries;
  const AbsMeanMap<E> entries{static_cast<const typename E::Stored*>(x.data), x.channels,
                              x.channel_stride};
  const auto g = gradient_terms<T>(rows, c.row, 1 / double(c.n), entries.offset());
  const T inverse = T(1) / T(x.channels);
  for (int64_t first = 0; first < x.count; first += kTile<T>) {
    const int64_t count = x.count - first < kTile<T> ? x.count - first : kTile<T>;
    alignas(64) T map[kTile<T>];
    entries.tile(first, count, map);
    for_each_lane<E>(count, [&](auto lane, int64_t i) {
      using V = typename decltype(lane)::T;
      const V entry = gradient_of_entry(V(lane.read_wide(map + i)), g) + g.l1;
      PlainElement<T>::put(map + i, V(entry * inverse));
    });
    for (int64_t channel = 0; channel < x.channels; ++channel) {
      const auto* from = entries.x + channel * x.channel_stride + first;
      auto* to = static_cast<typename E::Stored*>(c.grad) + channel * c.n + first;
      for_each_lane<E>(count, [&](auto lane, int64_t i) {
        using V = typename decltype(lane)::T;
        E::put(to + i, V(with_sign(lane.read(from + i), lane.read_wide(map + i))));
      });
    }
  }
}

}  // namespace
}  // namespace sdd
