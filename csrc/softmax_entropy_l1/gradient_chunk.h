// The gradient of a chunk, equation (6): its entries are read once more, and as many elements
// written.
#pragma once

#include "map_entries.h"
#include "softmax_entropy_l1.h"
#include "softmax_entropy_l1_kernel.h"

namespace sdd {
namespace {

// Entries of an abs-mean map, kept with those of the channels in the first-level cache.
constexpr int64_t kGradientBlock = 1024;

// body(p, i): p stands for vectors of entries, or for single ones at the end.
template <class T, class Body>
SDD_FN void for_entries(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) body(typename VectorOf<T>::type{}, i);
  for (; i < n; ++i) body(T{}, i);
}

template <class E>
SDD_FN typename E::Vector entries_at(const typename E::Stored* p, typename E::Vector) {
  return E::vector(p);
}
template <class E>
SDD_FN typename E::Compute entries_at(const typename E::Stored* p, typename E::Compute) {
  return E::value(p);
}

template <class E>
void signed_gradient(const EntropyGradientChunk& c, const GradientRows& rows) {
  using T = typename E::Compute;
  const auto g = gradient_terms<T>(rows, c.row, c.inverse_n, 0);
  const auto* x = static_cast<const typename E::Stored*>(c.entries.data);
  auto* grad = static_cast<typename E::Stored*>(c.grad);
  for_entries<T>(c.entries.count, [&](auto kind, int64_t i) {
    const auto v = entries_at<E>(x + i, kind);
    E::put(grad + i, decltype(kind)(gradient_of_entry(v, g) + with_sign(v, g.l1)));
  });
}

// The map is never negative: it has the sign 1 wherever one of its channels has any.
template <class E>
void abs_mean_gradient(const EntropyGradientChunk& c, const GradientRows& rows) {
  using T = typename E::Compute;
  using M = PlainElement<T>;
  alignas(64) T map[kGradientBlock];
  const int64_t channels = c.entries.channels;
  const T inverse = T(1) / T(channels);
  for (int64_t first = 0; first < c.entries.count; first += kGradientBlock) {
    const int64_t left = c.entries.count - first;
    const int64_t count = left < kGradientBlock ? left : kGradientBlock;
    const auto* x = static_cast<const typename E::Stored*>(c.entries.data) + first;
    auto* grad = static_cast<typename E::Stored*>(c.grad) + first;
    double offset = 0;
    for (int64_t i = 0; i < count; ++i) map[i] = 0;
    for (int64_t channel = 0; channel < channels; ++channel) {
      const auto* from = x + channel * c.entries.channel_stride;
      const T near = near_value<E>(from);
      offset += double(near) / double(channels);
      for_entries<T>(count, [&](auto kind, int64_t i) {
        const auto above = (absolute(entries_at<E>(from + i, kind)) - near) * inverse;
        M::put(map + i, decltype(kind)(entries_at<M>(map + i, kind) + above));
      });
    }
    const auto g = gradient_terms<T>(rows, c.row, c.inverse_n, offset);
    for_entries<T>(count, [&](auto kind, int64_t i) {
      const auto entry = gradient_of_entry(entries_at<M>(map + i, kind), g);
      M::put(map + i, decltype(kind)((entry + g.l1) * inverse));
    });
    for (int64_t channel = 0; channel < channels; ++channel) {
      const auto* from = x + channel * c.entries.channel_stride;
      auto* to = grad + channel * c.grad_channel_stride;
      for_entries<T>(count, [&](auto kind, int64_t i) {
        const auto sign = entries_at<E>(from + i, kind);
        E::put(to + i, decltype(kind)(with_sign(sign, entries_at<M>(map + i, kind))));
      });
    }
  }
}

}  // namespace
}  // namespace sdd
