// Two passes forwards, two backwards, on CPU vectors of the width of this instruction set (SDD_ISA
// names the copy): sums over the groups, then every element. Formulas: group_norm_silu.h.
#include "group_norm_silu_kernel.h"

#include "../common/elements.h"

namespace sdd {
namespace {

constexpr int64_t kRows = 32;     // added up in the precision of the vectors; their sums in float64
constexpr int64_t kPanel = 1024;  // channels that are added up in one go

#if defined(__AVX512F__)
// An estimate and a step of Newton's method: wrong by two units of the last place.
template <>
struct Reciprocal<FloatVector> {
  SDD_FN static FloatVector of(FloatVector x) {
    const auto guess = (FloatVector)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
    return guess * (2 - x * guess);
  }
};
#endif

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

// A factor of as many elements as the lane has, whose channels begin at p; or whose channel p is.
template <bool kInside, class Lane, class S>
SDD_FN typename Lane::T factor(Lane lane, const S* p, int64_t i) {
  if constexpr (kInside) return lane.read_wide(p + i);
  return typename Lane::T{} + *p;
}

// Adds the lanes of v to as many elements.
SDD_FN void add_lanes(float v, double* to) { *to += double(v); }
SDD_FN void add_lanes(double v, double* to) { *to += v; }
template <class V>
SDD_FN void add_lanes(V v, double* to) {
  constexpr int parts = sizeof(double) / sizeof(ScalarOf<V>);
  DoubleVector wide[parts];
  widen(v, wide);
  for (int p = 0; p < parts; ++p) {
    PlainElement<double>::put(to + p * lanes<double>, load(to + p * lanes<double>) + wide[p]);
  }
}

// Adds to first and second, of a number for each column, two terms of `rows` rows, `stride` apart,
// of kVectors * lane.width columns. term(lane, i, v, a, b) adds those of vector v of a row, whose
// elements begin at i, to a and b.
template <int kVectors, class Lane, class Term>
SDD_FN void sums_of_block(Lane lane, int64_t start, int64_t stride, int64_t rows, const Term& term,
                          double* first, double* second) {
  constexpr int width = Lane::width;
  typename Lane::T a[kVectors] = {}, b[kVectors] = {};
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      term(lane, start + row * stride + v * width, v * width, a[v], b[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    add_lanes(a[v], first + v * width);
    add_lanes(b[v], second + v * width);
  }
}

// block(lane, Count<vectors>, i) for the blocks that 0 ... n is made of: of kVectors vectors, of
// one and of one element. It returns how many elements it took.
template <class E, int kVectors, class Block>
SDD_FN void for_each_block(int64_t n, const Block& block) {
  constexpr int64_t width = VectorLane<E>::width;
  int64_t i = 0;
  while (i + kVectors * width <= n) i += block(VectorLane<E>{}, Count<kVectors>{}, i);
  while (i + width <= n) i += block(VectorLane<E>{}, Count<1>{}, i);
  while (i < n) i += block(OneLane<E>{}, Count<1>{}, i);
}

// The sums of two terms over the elements of each group in each chunk. term(chunk, lane, i, j, a,
// b) adds those of the elements of the sample from i on to a and b; their factors begin at j.
template <class E, bool kInside, int kVectors, class Term>
SDD_FN void sums_of_chunks(const GroupNormTasks& t, int64_t begin, int64_t end, const Term& term) {
  const GroupNorm& c = t.of;
  const int64_t per_group = c.channels / c.groups, parts = group_norm_parts(c);
  for_each_chunk<kInside>(c, begin, end, [&](const Chunk& k) {
    const int64_t group = k.sample * c.groups + k.channel / per_group;
    double* to = t.sums + (group * parts + k.part) * 2;
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
          a += first[i];
          b += second[i];
          if (--left > 0) continue;
          to[0] = a;
          to[1] = b;
          to += parts * 2;
          left = per_group;
          a = b = 0;
        }
      }
    } else {
      constexpr int64_t columns = kVectors * VectorLane<E>::width;
      double first[columns] = {}, second[columns] = {};
      for_each_block<E, kVectors>(k.count, [&](auto lane, auto vectors, int64_t begin) {
        const int64_t row = vectors * lane.width, all = (k.count - begin) / row;
        const int64_t rows = all < kRows ? all : kRows;
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
      to[0] = a;
      to[1] = b;
    }
  });
}

// The sums in (5)
template <class E, bool kInside>
void moments(const GroupNormTasks& t, int64_t begin, int64_t end) {
  using S = typename E::Compute;
  const auto* x = static_cast<const typename E::Stored*>(t.of.x);
  const auto* shift = static_cast<const S*>(t.shift);
  sums_of_chunks<E, kInside, 4>(
      t, begin, end, [&](const Chunk& k, auto lane, int64_t i, int64_t j, auto& a, auto& b) {
        const auto d = lane.read(x + k.in_x + i) - factor<kInside>(lane, shift + k.affine, j);
        a += d;
        b += d * d;
      });
}

// What (6) takes.
template <class E, bool kInside>
struct Normalized {
  using S = typename E::Compute;
  const typename E::Stored* x;
  const S* shift;
  const S* scale;
  const S* offset;

  explicit Normalized(const GroupNormTasks& t)
      : x(static_cast<const typename E::Stored*>(t.of.x)),
        shift(static_cast<const S*>(t.shift)),
        scale(static_cast<const S*>(t.scale)),
        offset(static_cast<const S*>(t.offset)) {}

  // x - shift, scale and z
  template <class T>
  struct At {
    T centered, scale, z;
  };
  template <class Lane>
  SDD_FN At<typename Lane::T> at(const Chunk& k, Lane lane, int64_t i, int64_t j) const {
    const auto centered = lane.read(x + k.in_x + i) - factor<kInside>(lane, shift + k.affine, j);
    const auto a = factor<kInside>(lane, scale + k.affine, j);
    return {centered, a, centered * a + factor<kInside>(lane, offset + k.affine, j)};
  }
};

// The sums T and U of (7)
template <class E, bool kInside, bool kSilu>
void gradient_sums(const GroupNormTasks& t, int64_t begin, int64_t end) {
  const Normalized<E, kInside> normalized(t);
  const auto* grad = static_cast<const typename E::Stored*>(t.of.grad);
  sums_of_chunks<E, kInside, 2>(
      t, begin, end, [&](const Chunk& k, auto lane, int64_t i, int64_t j, auto& a, auto& b) {
        const auto n = normalized.at(k, lane, i, j);
        const auto d = n.scale * activation_gradient<kSilu>(lane.read(grad + k.in_out + i), n.z);
        a += d;
        b += d * n.centered;
      });
}

// body(chunk, lane, i, j) for every element of a sample or vector of them; i, j as above.
template <class E, bool kInside, class Body>
SDD_FN void for_each_element(const GroupNorm& c, int64_t begin, int64_t end, const Body& body) {
  for_each_chunk<kInside>(c, begin, end, [&](const Chunk& k) {
    for_each_run<kInside>(c, k, [&](int64_t first, int64_t n) {
      for_each_lane<E>(n, [&](auto lane, int64_t j) { body(k, lane, first + j, j); });
    });
  });
}

// y of (2)
template <class E, bool kInside, bool kSilu>
void forward(const GroupNormTasks& t, int64_t begin, int64_t end) {
  const Normalized<E, kInside> normalized(t);
  auto* out = static_cast<typename E::Stored*>(t.of.out);
  for_each_element<E, kInside>(
      t.of, begin, end, [&](const Chunk& k, auto lane, int64_t i, int64_t j) {
        E::put(out + k.in_out + i, activated<kSilu>(normalized.at(k, lane, i, j).z));
      });
}

// (7)
template <class E, bool kInside, bool kSilu>
void gradient(const GroupNormTasks& t, int64_t begin, int64_t end) {
  using S = typename E::Compute;
  const Normalized<E, kInside> normalized(t);
  const auto* grad = static_cast<const typename E::Stored*>(t.of.grad);
  const auto* slope = static_cast<const S*>(t.slope);
  const auto* rest = static_cast<const S*>(t.rest);
  auto* out = static_cast<typename E::Stored*>(t.of.out);
  for_each_element<E, kInside>(
      t.of, begin, end, [&](const Chunk& k, auto lane, int64_t i, int64_t j) {
        using T = typename decltype(lane)::T;
        const auto n = normalized.at(k, lane, i, j);
        const T d = activation_gradient<kSilu>(lane.read(grad + k.in_out + i), n.z);
        E::put(out + k.in_out + i,
               T(n.scale * d - n.centered * factor<kInside>(lane, slope + k.slopes, j) -
                 factor<kInside>(lane, rest + k.slopes, j)));
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
