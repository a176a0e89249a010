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
  using Vector = typename E::Vector;
  constexpr int64_t width = lanes<S>;
  const ActParams<S> p(c.activation, as_stored<E>(c.activation.limit));
  const auto* x = static_cast<const typename E::Stored*>(c.x);
  auto* out = static_cast<typename E::Stored*>(c.out);
  if (c.row_bias) {
    const auto* bias = static_cast<const S*>(c.bias);
    for_each_piece(c, begin, end, [&](int64_t, int64_t channel, int64_t start, int64_t, int64_t n) {
      const S b = bias == nullptr ? S(0) : bias[channel];
      const auto* from = x + start;
      auto* to = out + start;
      int64_t i = 0;
      for (; i + width <= n; i += width) {
        E::put(to + i, activated<kAct>(Vector(E::vector(from + i) + b), p));
      }
      for (; i < n; ++i) E::put(to + i, activated<kAct>(S(E::value(from + i) + b), p));
    });
  } else {
    const auto* wide_bias = static_cast<const S*>(c.bias);
    for_each_piece(c, begin, end, [&](int64_t, int64_t, int64_t start, int64_t first, int64_t n) {
      const S* b = wide_bias + first;
      const auto* from = x + start;
      auto* to = out + start;
      int64_t i = 0;
      for (; i + width <= n; i += width) {
        E::put(to + i, activated<kAct>(Vector(E::vector(from + i) + load(b + i)), p));
      }
      for (; i < n; ++i) {
        E::put(to + i, activated<kAct>(S(E::value(from + i) + b[i]), p));
      }
    });
  }
}

template <class E, Act kAct>
void backward(const BiasActRows& c, int64_t begin, int64_t end) {
  using S = typename E::Compute;
  using Vector = typename E::Vector;
  constexpr int64_t width = lanes<S>;
  constexpr int64_t tile = 64 * width;  // summed in the precision of S, tiles in double
  const ActParams<S> p(c.activation, as_stored<E>(c.activation.limit));
  const auto* grad = static_cast<const typename E::Stored*>(c.x);
  const auto* y = static_cast<const typename E::Stored*>(c.y);
  auto* out = static_cast<typename E::Stored*>(c.out);
  const auto gradient = [&](int64_t i) {
    const Vector r = E::vector(y + i);
    const Vector g = bias_act_gradient<kAct>(E::vector(grad + i), r, r, p);
    E::put(out + i, g);
    return g;
  };
  const auto gradient_of_one = [&](int64_t i) {
    const S r = E::value(y + i);
    const S g = bias_act_gradient<kAct>(E::value(grad + i), r, r, p);
    E::put(out + i, g);
    return g;
  };
  if (c.row_bias || c.sums == nullptr) {
    for_each_piece(c, begin, end, [&](int64_t slot, int64_t, int64_t start, int64_t, int64_t n) {
      double total = 0;
      int64_t i = 0;
      while (i + width <= n) {
        const int64_t rest = n - i, stop = i + (rest < tile ? rest / width * width : tile);
        Vector sum[2] = {};
        for (; i + 2 * width <= stop; i += 2 * width) {
          sum[0] += gradient(start + i);
          sum[1] += gradient(start + i + width);
        }
        for (; i < stop; i += width) sum[0] += gradient(start + i);
        sum[0] += sum[1];
        for (int l = 0; l < width; ++l) total += double(sum[0][l]);
      }
      for (; i < n; ++i) total += double(gradient_of_one(start + i));
      if (c.sums != nullptr) c.sums[slot] = total;
    });
  } else {
    for_each_piece(c, begin, end, [&](int64_t slot, int64_t, int64_t start, int64_t, int64_t n) {
      double* into = c.sums + slot;
      int64_t i = 0;
      for (; i + width <= n; i += width) {
        const Vector g = gradient(start + i);
        for (int l = 0; l < width; ++l) into[i + l] += double(g[l]);
      }
      for (; i < n; ++i) into[i] += double(gradient_of_one(start + i));
    });
  }
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
