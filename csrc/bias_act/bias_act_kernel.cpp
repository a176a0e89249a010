// bias_act, forward and backward in one pass each, on CPU vectors of the width of this instruction
// set (SDD_ISA names the copy). Formulas: bias_act.h.
#include "bias_act_kernel.h"

#include "../common/elements.h"

namespace sdd {
namespace {

// body(slot, channel, start, first, n) for every piece of the tasks: elements [start, start + n),
// which begin at entry `first` of a row of `channel`. slot: where its sums go, see bias_act_sums().
template <class Body>
SDD_FN void for_each_piece(const BiasActRows& c, int64_t begin, int64_t end, const Body& body) {
  const int64_t pieces = bias_act_pieces(c.length), group = bias_act_group(c.length);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t piece = task % pieces, first = piece * kActChunk;
    const int64_t count = c.length - first < kActChunk ? c.length - first : kActChunk;
    const int64_t first_row = task / pieces * group;
    int64_t channel = first_row % c.channels;
    for (int64_t row = first_row; row < first_row + group; ++row) {
      const int64_t start = row * c.length + first, rest = c.numel - start;
      if (rest <= 0) break;
      const int64_t slot = c.row_bias ? row * pieces + piece : task / pieces * c.length + first;
      body(slot, channel, start, first, rest < count ? rest : count);
      channel = channel + 1 == c.channels ? 0 : channel + 1;
    }
  }
}

template <class E, Act kAct>
void forward(const BiasActRows& c, int64_t begin, int64_t end) {
  using S = typename E::Compute;
  const ActParams<S> p(c.activation, as_stored<E>(c.activation.limit));
  const auto* x = static_cast<const typename E::Stored*>(c.x);
  const auto* bias = static_cast<const S*>(c.bias);
  auto* out = static_cast<typename E::Stored*>(c.out);
  for_each_piece(
      c, begin, end, [&](int64_t, int64_t channel, int64_t start, int64_t first, int64_t n) {
        const auto activate = [&](const auto& bias_at) {
          for_each_lane<E>(n, [&](auto lane, int64_t i) {
            using T = typename decltype(lane)::T;
            E::put(out + start + i,
                   activated<kAct>(T(lane.read(x + start + i) + bias_at(lane, i)), p));
          });
        };
        if (c.row_bias) {
          const S b = bias == nullptr ? S(0) : bias[channel];
          activate([=](auto, int64_t) { return b; });
        } else {
          activate([=](auto lane, int64_t i) { return lane.read_wide(bias + first + i); });
        }
      });
}

template <class E, Act kAct>
void backward(const BiasActRows& c, int64_t begin, int64_t end) {
  using S = typename E::Compute;
  constexpr int64_t tile = 64 * lanes<S>;  // summed in the precision of S, tiles in double
  const ActParams<S> p(c.activation, as_stored<E>(c.activation.limit));
  const auto* grad = static_cast<const typename E::Stored*>(c.x);
  const auto* y = static_cast<const typename E::Stored*>(c.y);
  auto* out = static_cast<typename E::Stored*>(c.out);
  const auto gradient = [&](auto lane, int64_t i) {
    const auto r = lane.read(y + i);
    const auto g = bias_act_gradient<kAct>(lane.read(grad + i), r, r, p);
    E::put(out + i, g);
    return g;
  };
  for_each_piece(c, begin, end, [&](int64_t slot, int64_t, int64_t start, int64_t, int64_t n) {
    if (c.row_bias || c.sums == nullptr) {
      double total = 0;
      for (int64_t first = 0; first < n; first += tile) {
        Vector<S> sum{};
        for_each_lane<E>(n - first < tile ? n - first : tile, [&](auto lane, int64_t i) {
          const auto g = gradient(lane, start + first + i);
          if constexpr (decltype(lane)::width == 1) {
            total += double(g);
          } else {
            sum += g;
          }
        });
        for (int l = 0; l < lanes<S>; ++l) total += double(sum[l]);
      }
      if (c.sums != nullptr) c.sums[slot] = total;
    } else {
      for_each_lane<E>(n, [&](auto lane, int64_t i) {
        const auto g = gradient(lane, start + i);
        if constexpr (decltype(lane)::width == 1) {
          c.sums[slot + i] += double(g);
        } else {
          for (int l = 0; l < lanes<S>; ++l) c.sums[slot + i + l] += double(g[l]);
        }
      });
    }
  });
}

}  // namespace

void SDD_JOIN(bias_act_, SDD_ISA)(const BiasActRows& c, int64_t begin, int64_t end) {
  with_element(c.element, [&](auto element) {
    with_act(c.activation.act, [&](auto act) {
      using E = decltype(element);
      return c.y == nullptr ? forward<E, act()>(c, begin, end) : backward<E, act()>(c, begin, end);
    });
  });
}

}  // namespace sdd
