// One chunk of one row on the CPU, and its gradient; compiled once per instruction set (SDD_ISA
// names the copy).
//
// Most chunks take a single pass over memory (one_pass.h), the rest two (wide_chunk.h). Elements
// are float32, or float64 for float64 input; a tile of at most 64 vectors is summed in that
// precision, everything above it in float64. Formulas: softmax_entropy_l1.h.
#include "softmax_entropy_l1_kernel.h"

#include "gradient_chunk.h"
#include "map_entries.h"
#include "one_pass.h"
#include "wide_chunk.h"

namespace sdd {
namespace {

template <class E>
const typename E::Stored* data_of(const EntropyChunk& c) {
  return static_cast<const typename E::Stored*>(c.data);
}

template <class E>
void signed_chunk(const EntropyChunk& c, RowStats* out) {
  using T = typename E::Compute;
  const auto* x = data_of<E>(c);
  if constexpr (sizeof(T) == 4) {
    if (one_pass(StoredEntries<E, false>{x}, c.count, out)) return;
  }
  if constexpr (sizeof(x[0]) == sizeof(T)) {
    wide_chunk(x, c.count, {}, out);
  } else {
    alignas(64) T map[kEntropyChunk];
    for (int64_t i = 0; i < c.count; ++i) map[i] = E::value(x + i);
    wide_chunk(map, c.count, {}, out);
  }
}

// The map is made first: any number of channels, any elements.
template <class E>
void stored_abs_mean_chunk(const EntropyChunk& c, RowStats* out) {
  using T = typename E::Compute;
  alignas(64) T map[kEntropyChunk];
  const T inverse = T(1) / T(c.channels);
  double offset = 0;
  for (int64_t i = 0; i < c.count; ++i) map[i] = 0;
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    const auto* x = data_of<E>(c) + channel * c.channel_stride;
    const T near = near_value<E>(x);
    offset += double(near) / double(c.channels);
    for (int64_t i = 0; i < c.count; ++i) map[i] += (absolute(T(E::value(x + i))) - near) * inverse;
  }
  if constexpr (sizeof(T) == 4) {
    if (one_pass(StoredEntries<PlainElement<T>, true>{map, offset}, c.count, out)) return;
  }
  wide_chunk(map, c.count, {true, offset}, out);
}

template <class E>
void abs_mean_chunk(const EntropyChunk& c, RowStats* out) {
  if constexpr (sizeof(typename E::Compute) == 4) {
    if (c.channels == 3) {
      const AbsMeanEntries<E, 3> map(data_of<E>(c), c.channel_stride);
      if (one_pass(map, c.count, out)) return;
    }
  }
  stored_abs_mean_chunk<E>(c, out);
}

template <class E>
void any_chunk(const EntropyChunk& c, RowStats* out) {
  if (c.channels > 0) {
    abs_mean_chunk<E>(c, out);
  } else {
    signed_chunk<E>(c, out);
  }
}

template <class E>
void any_gradient(const EntropyGradientChunk& c, const GradientRows& rows) {
  if (c.entries.channels > 0) {
    abs_mean_gradient<E>(c, rows);
  } else {
    signed_gradient<E>(c, rows);
  }
}

}  // namespace

void SDD_JOIN(entropy_chunk_, SDD_ISA)(const EntropyChunk& c, RowStats* out) {
  with_element(c.element, [&](auto e) { any_chunk<decltype(e)>(c, out); });
}

void SDD_JOIN(entropy_gradient_, SDD_ISA)(const EntropyGradientChunk& c, const GradientRows& rows) {
  with_element(c.entries.element, [&](auto e) { any_gradient<decltype(e)>(c, rows); });
}

}  // namespace sdd
