// Two passes forwards, two backwards, on CPU vectors of the width of this instruction set (SDD_ISA
// names the copy): sums over the groups, then every element. Formulas: group_norm_silu.h.
#include "group_norm_silu_kernel.h"

#include "silu_cpu.h"

namespace sdd {
namespace {

constexpr int64_t kRows = 32;     // added up in the precision of the vectors; their sums in float64
constexpr int64_t kAhead = 16;    // pixels between what is read and what is asked of memory
constexpr int64_t kPanel = 1024;  // channels that are added up in one go

// Part of a sample: pixels [first, first + count) of all channels, or of one. Offsets of the sample
// in x, and in grad and out; of its channels in the factors of (6), and of (7).
struct Chunk {
  int64_t sample, channel, first, count, part;
  int64_t in_x, in_out, affine, slopes;
};

// body(chunk) for every task. kInside: the channels are.
template <bool kInside, class Body>
SDD_FN void for_each_chunk(const GroupNorm& c, int64_t begin, int64_t end, const Body& body) {
  const int64_t length = group_norm_chunk(c), chunks = group_norm_chunks(c);
  const int64_t rows = kInside ? 1 : c.channels, per_group = kInside ? 1 : c.channels / c.groups;
  for (int64_t task = begin; task < end; ++task) {
    Chunk k;
    const int64_t row = task / chunks, chunk = task % chunks;
    k.sample = row / rows;
    k.channel = row % rows;
    k.first = chunk * length;
    k.count = c.pixels - k.first < length ? c.pixels - k.first : length;
    k.part = k.channel % per_group * chunks + chunk;
    const int64_t of_x = k.sample % c.samples;
    k.in_x = of_x * c.channels * c.pixels;
    k.in_out = k.sample * c.channels * c.pixels;
    k.affine = of_x * c.channels + k.channel;
    k.slopes = k.sample * c.channels + k.channel;
    body(k);
  }
}

// body(i, channel, n) for the elements [i, i + n) of a sample that are neighbors in a chunk:
// channels from `channel` on of one pixel, or all of that channel.
template <bool kInside, class Body>
SDD_FN void for_each_run(const GroupNorm& c, const Chunk& k, const Body& body) {
  if constexpr (kInside) {
    for (int64_t p = k.first; p < k.first + k.count; ++p) body(p * c.channels, c.channels);
  } else {
    body(k.channel * c.pixels + k.first, k.count);
  }
}

// Loops are written once, as a body over a lane: a vector of neighbors, or what is left of one. As:
// how they are stored in the memory of elements E.
template <class E>
struct FullLane {
  using V = typename E::Vector;
  using Stored = typename E::Stored;
  static constexpr int64_t width = lanes<typename E::Compute>;
  template <class As = E>
  SDD_FN static V read(const Stored* p, As = {}) {
    return As::vector(p);
  }
  template <class As = E>
  SDD_FN static void put(Stored* p, V v, As = {}) {
    As::put(p, v);
  }
  // Adds the lanes of v to as many elements.
  SDD_FN static void add(V v, double* to) {
    constexpr int parts = sizeof(double) / sizeof(typename E::Compute);
    DoubleVector wide[parts];
    widen(v, wide);
    for (int p = 0; p < parts; ++p) {
      PlainElement<double>::put(to + p * lanes<double>, load(to + p * lanes<double>) + wide[p]);
    }
  }
};

// The first `count` lanes; the others mean nothing.
template <class E>
struct PartLane {
  using V = typename E::Vector;
  using Stored = typename E::Stored;
  static constexpr int64_t width = lanes<typename E::Compute>;
  int64_t count;
  template <class As = E>
  SDD_FN V read(const Stored* p, As = {}) const {
    if (count == width) return As::vector(p);
    Stored all[width] = {};
    memcpy(all, p, count * sizeof(*p));
    return As::vector(all);
  }
  template <class As = E>
  SDD_FN void put(Stored* p, V v, As = {}) const {
    if (count == width) return As::put(p, v);
    Stored all[width];
    As::put(all, v);
    memcpy(p, all, count * sizeof(*p));
  }
  SDD_FN void add(V v, double* to) const {
    for (int64_t l = 0; l < count; ++l) to[l] += double(v[l]);
  }
};

// A factor of as many elements as a vector has lanes, whose channels begin at p + i; or whose
// channel p is. May read as many channels too many.
template <class V, bool kInside, class S>
SDD_FN V factor(const S* p, int64_t i) {
  if constexpr (kInside) return load(p + i);
  return V{} + *p;
}

// Of the element at p. Sums go down the pixels of a few channels: what comes next the hardware does
// not foresee.
template <bool kInside, class Lane, class Stored>
SDD_FN typename Lane::V read_for_sum(Lane lane, const GroupNorm& c, const Stored* p) {
  if constexpr (kInside) __builtin_prefetch(p + kAhead * c.channels);
  return lane.read(p);
}

// Adds to first and second, of a number for each column, two terms of `rows` rows, `stride` apart,
// of kVectors * lane.width columns. term(lane, i, v, a, b) adds those of vector v of a row, whose
// elements begin at i, to a and b.
template <int kVectors, class Lane, class Term>
SDD_FN void sums_of_block(Lane lane, int64_t start, int64_t stride, int64_t rows, const Term& term,
                          double* first, double* second) {
  constexpr int width = Lane::width;
  typename Lane::V a[kVectors] = {}, b[kVectors] = {};
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      term(lane, start + row * stride + v * width, v * width, a[v], b[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    lane.add(a[v], first + v * width);
    lane.add(b[v], second + v * width);
  }
}

// block(lane, Count<vectors>, i) for the blocks that 0 ... n is made of: of kVectors vectors, and
// of one or what is left of it. It returns how many elements it took.
template <class E, int kVectors, class Block>
SDD_FN void for_each_block(int64_t n, const Block& block) {
  constexpr int64_t width = FullLane<E>::width;
  int64_t i = 0;
  while (i + kVectors * width <= n) i += block(FullLane<E>{}, Count<kVectors>{}, i);
  while (i < n) i += block(PartLane<E>{n - i < width ? n - i : width}, Count<1>{}, i);
}

// The sums of two terms over the elements of each group in each chunk. term(chunk, lane, i, j, a,
// b) adds those of the elements of the sample from i on to a and b; their factors begin at j.
// of_channel: what both are multiplied by, or nullptr.
template <class E, bool kInside, int kVectors, class Term>
SDD_FN void sums_of_chunks(const GroupNormTasks& t, int64_t begin, int64_t end,
                           const typename E::Compute* of_channel, const Term& term) {
  const GroupNorm& c = t.of;
  const int64_t per_group = c.channels / c.groups, parts = group_norm_parts(c);
  for_each_chunk<kInside>(c, begin, end, [&](const Chunk& k) {
    const int64_t group = k.sample * c.groups + k.channel / per_group;
    double* to = t.sums + (group * parts + k.part) * 2;
    const auto times = [&](int64_t channel) {
      return of_channel == nullptr ? 1.0 : double(of_channel[k.affine + channel]);
    };
    double a = 0, b = 0;
    if constexpr (kInside) {
      int64_t left = per_group;  // channels of a group, which may end in another panel
      for (int64_t panel = 0; panel < c.channels; panel += kPanel) {
        const int64_t columns = c.channels - panel < kPanel ? c.channels - panel : kPanel;
        double first[kPanel] = {}, second[kPanel] = {};
        for (int64_t row = 0; row < k.count; row += kRows) {
          const int64_t rows = k.count - row < kRows ? k.count - row : kRows;
          const int64_t start = (k.first + row) * c.channels + panel;
          for_each_block<E, kVectors>(columns, [&](auto lane, auto vectors, int64_t column) {
            sums_of_block<vectors>(
                lane, start + column, c.channels, rows,
                [&](auto l, int64_t i, int64_t v, auto& x, auto& y) {
                  term(k, l, i, panel + column + v, x, y);
                },
                first + column, second + column);
            return vectors * lane.width;
          });
        }
        for (int64_t i = 0; i < columns; ++i) {
          a += first[i] * times(panel + i);
          b += second[i] * times(panel + i);
          if (--left > 0) continue;
          to[0] = a;
          to[1] = b;
          to += parts * 2;
          left = per_group;
          a = b = 0;
        }
      }
    } else {
      constexpr int64_t columns = kVectors * FullLane<E>::width;
      double first[columns] = {}, second[columns] = {};
      for_each_block<E, kVectors>(k.count, [&](auto lane, auto vectors, int64_t begin) {
        const int64_t row = vectors * lane.width, all = (k.count - begin) / row;
        const int64_t rows = all < 1 ? 1 : all < kRows ? all : kRows;
        sums_of_block<vectors>(
            lane, k.channel * c.pixels + k.first + begin, row, rows,
            [&](auto l, int64_t i, int64_t, auto& x, auto& y) { term(k, l, i, 0, x, y); }, first,
            second);
        return rows * row;
      });
      for (int64_t i = 0; i < columns; ++i) {
        a += first[i];
        b += second[i];
      }
      to[0] = a * times(0);
      to[1] = b * times(0);
    }
  });
}

// The sums in (5)
template <class E, bool kInside>
void moments(const GroupNormTasks& t, int64_t begin, int64_t end) {
  using S = typename E::Compute;
  using V = typename E::Vector;
  const auto* x = static_cast<const typename E::Stored*>(t.of.x);
  const auto* shift = static_cast<const S*>(t.shift);
  sums_of_chunks<E, kInside, 4>(
      t, begin, end, nullptr,
      [&](const Chunk& k, auto lane, int64_t i, int64_t j, auto& a, auto& b) {
        const V d = read_for_sum<kInside>(lane, t.of, x + k.in_x + i) -
                    factor<V, kInside>(shift + k.affine, j);
        a += d;
        b += d * d;
      });
}

// What (6) takes.
template <class E, bool kInside>
struct Normalized {
  using S = typename E::Compute;
  using V = typename E::Vector;
  const typename E::Stored* x;
  const S* shift;
  const S* scale;
  const S* offset;

  explicit Normalized(const GroupNormTasks& t)
      : x(static_cast<const typename E::Stored*>(t.of.x)),
        shift(static_cast<const S*>(t.shift)),
        scale(static_cast<const S*>(t.scale)),
        offset(static_cast<const S*>(t.offset)) {}

  // x - shift, scale and z, of x whose factors begin at j
  struct At {
    V centered, scale, z;
  };
  SDD_FN At at(const Chunk& k, V x, int64_t j) const {
    const V centered = x - factor<V, kInside>(shift + k.affine, j);
    const V a = factor<V, kInside>(scale + k.affine, j);
    return {centered, a, centered * a + factor<V, kInside>(offset + k.affine, j)};
  }
};

// The sums T and U of (7). What is kept of dy/dz lies where the result will.
template <class E, bool kInside, bool kSilu>
void gradient_sums(const GroupNormTasks& t, int64_t begin, int64_t end) {
  const Normalized<E, kInside> normalized(t);
  const auto* grad = static_cast<const typename E::Stored*>(t.of.grad);
  auto* out = static_cast<typename E::Stored*>(t.of.out);
  sums_of_chunks<E, kInside, 2>(
      t, begin, end, normalized.scale,
      [&](const Chunk& k, auto lane, int64_t i, int64_t j, auto& a, auto& b) {
        const auto x = read_for_sum<kInside>(lane, t.of, normalized.x + k.in_x + i);
        auto d = read_for_sum<kInside>(lane, t.of, grad + k.in_out + i);
        const auto n = normalized.at(k, x, j);
        const auto slope = Silu<E, kSilu>::slope(n.z);
        if constexpr (kKeepsSlope<E, kSilu>) lane.put(out + k.in_out + i, slope, Slope16{});
        d *= slope;
        a += d;
        b += d * n.centered;
      });
}

// out = value(chunk, lane, i, j) for every vector of the elements of a sample; i, j as above.
template <class E, bool kInside, class Value>
SDD_FN void for_each_element(const GroupNorm& c, int64_t begin, int64_t end, const Value& value) {
  constexpr int64_t width = FullLane<E>::width;
  for_each_chunk<kInside>(c, begin, end, [&](const Chunk& k) {
    auto* out = static_cast<typename E::Stored*>(c.out) + k.in_out;
    for_each_run<kInside>(c, k, [&](int64_t first, int64_t n) {
      int64_t j = 0;
      for (; j + 2 * width <= n; j += 2 * width) {
        const auto low = value(k, FullLane<E>{}, first + j, j);
        put_two<E>(out + first + j, low, value(k, FullLane<E>{}, first + j + width, j + width));
      }
      for (; j < n; j += width) {
        const PartLane<E> lane{n - j < width ? n - j : width};
        lane.put(out + first + j, value(k, lane, first + j, j));
      }
    });
  });
}

// y of (2)
template <class E, bool kInside, bool kSilu>
void forward(const GroupNormTasks& t, int64_t begin, int64_t end) {
  const Normalized<E, kInside> normalized(t);
  for_each_element<E, kInside>(
      t.of, begin, end, [&](const Chunk& k, auto lane, int64_t i, int64_t j) {
        return Silu<E, kSilu>::value(normalized.at(k, lane.read(normalized.x + k.in_x + i), j).z);
      });
}

// (7)
template <class E, bool kInside, bool kSilu>
void gradient(const GroupNormTasks& t, int64_t begin, int64_t end) {
  using S = typename E::Compute;
  using V = typename E::Vector;
  const Normalized<E, kInside> normalized(t);
  const auto* grad = static_cast<const typename E::Stored*>(t.of.grad);
  const auto* slope = static_cast<const S*>(t.slope);
  const auto* rest = static_cast<const S*>(t.rest);
  const auto* out = static_cast<const typename E::Stored*>(t.of.out);
  for_each_element<E, kInside>(
      t.of, begin, end, [&](const Chunk& k, auto lane, int64_t i, int64_t j) {
        const auto n = normalized.at(k, lane.read(normalized.x + k.in_x + i), j);
        V d = lane.read(grad + k.in_out + i);
        if constexpr (kKeepsSlope<E, kSilu>) {
          d *= lane.read(out + k.in_out + i, Slope16{});
        } else {
          d *= Silu<E, kSilu>::slope(n.z);
        }
        return V(n.scale * d - n.centered * factor<V, kInside>(slope + k.slopes, j) -
                 factor<V, kInside>(rest + k.slopes, j));
      });
}

// body(E{}, inside, silu), the two flags as constants
template <class Body>
SDD_FN void with_kind(const GroupNorm& c, const Body& body) {
  with_element(c.element, [&](auto element) {
    const auto with_inside = [&](auto silu) {
      c.channels_inside ? body(element, std::true_type{}, silu)
                        : body(element, std::false_type{}, silu);
    };
    c.silu ? with_inside(std::true_type{}) : with_inside(std::false_type{});
  });
}

}  // namespace

void SDD_JOIN(group_norm_moments_, SDD_ISA)(const GroupNormTasks& t, int64_t begin, int64_t end) {
  with_element(t.of.element, [&](auto element) {
    using E = decltype(element);
    t.of.channels_inside ? moments<E, true>(t, begin, end) : moments<E, false>(t, begin, end);
  });
}

void SDD_JOIN(group_norm_silu_, SDD_ISA)(const GroupNormTasks& t, int64_t begin, int64_t end) {
  with_kind(t.of, [&](auto element, auto inside, auto silu) {
    forward<decltype(element), inside, silu>(t, begin, end);
  });
}

void SDD_JOIN(group_norm_silu_sums_, SDD_ISA)(const GroupNormTasks& t, int64_t begin, int64_t end) {
  with_kind(t.of, [&](auto element, auto inside, auto silu) {
    gradient_sums<decltype(element), inside, silu>(t, begin, end);
  });
}

void SDD_JOIN(group_norm_silu_gradient_, SDD_ISA)(const GroupNormTasks& t, int64_t begin,
                                                  int64_t end) {
  with_kind(t.of, [&](auto element, auto inside, auto silu) {
    gradient<decltype(element), inside, silu>(t, begin, end);
  });
}

}  // namespace sdd
