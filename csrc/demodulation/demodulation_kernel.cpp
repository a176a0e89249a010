// Sums of squares of weights, and the demodulation factors from them.
#include "demodulation_kernel.h"

#include "../common/elements.h"

namespace sdd {
namespace {

template <class T>
SDD_FN Vector<T> square(Vector<T> v) {
  return v * v;
}

// lanes^2 neighboring columns of `terms` neighbors each: as many segments as lanes are read side
// by side and transposed, so that a lane is a segment, and the sums are transposed back.
template <class E>
SDD_FN void transposed_energies(const typename E::Stored* w, int64_t terms,
                                typename E::Compute* out) {
  using T = typename E::Compute;
  constexpr int width = lanes<T>;
  Vector<T> sums[width], sum{};
  int64_t left = terms;
  int done = 0;
  for (int64_t p = 0; p < width * terms; p += width) {
    Vector<T> row[width];
    for (int l = 0; l < width; ++l) row[l] = E::vector(w + l * width * terms + p);
    Shuffle<T>::transpose(row);
    for (int j = 0; j < width; ++j) {
      sum += square<T>(row[j]);
      if (--left > 0) continue;
      sums[done++] = sum;
      sum = Vector<T>{};
      left = terms;
    }
  }
  Shuffle<T>::transpose(sums);
  memcpy(out, sums, sizeof(sums));
}

// The sum of the squares of elements `stride` apart.
template <class E>
SDD_FN double one_energy(const typename E::Stored* w, int64_t terms, int64_t stride) {
  double sum = 0;
  for (int64_t k = 0; k < terms; ++k) {
    const double value = E::value(w + k * stride);
    sum += value * value;
  }
  return sum;
}

// count columns of `terms` neighbors each
template <class E>
SDD_FN void energies_of_neighbors(const typename E::Stored* w, int64_t count, int64_t terms,
                                  typename E::Compute* out) {
  using T = typename E::Compute;
  constexpr int block = lanes<T> * lanes<T>;
  int64_t i = 0;
  if (terms > 0 && terms <= kEnergyTerms) {
    for (; i + block <= count; i += block) transposed_energies<E>(w + i * terms, terms, out + i);
  }
  for (; i < count; ++i) out[i] = T(one_energy<E>(w + i * terms, terms, 1));
}

// count columns, whose terms are `stride` apart
template <class E>
SDD_FN void energies_side_by_side(const typename E::Stored* w, int64_t count, int64_t terms,
                                  int64_t stride, typename E::Compute* out) {
  using T = typename E::Compute;
  constexpr int width = lanes<T>;
  int64_t i = 0;
  const auto vectors = [&](auto number) {
    constexpr int n = decltype(number)::value;
    for (; i + n * width <= count; i += n * width) {
      Vector<T> sum[n] = {};
      for (int64_t k = 0; k < terms; ++k) {
        for (int v = 0; v < n; ++v) sum[v] += square<T>(E::vector(w + k * stride + i + v * width));
      }
      memcpy(out + i, sum, sizeof(sum));
    }
  };
  if (terms <= kEnergyTerms) {
    vectors(Count<4>{});
    vectors(Count<1>{});
  }
  for (; i < count; ++i) out[i] = T(one_energy<E>(w + i, terms, stride));
}

template <class E>
void energies(const Energies& c, int64_t begin, int64_t end) {
  const int64_t runs = divide_up(c.columns, kEnergyRun);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t row = task / runs, first = task % runs * kEnergyRun;
    const int64_t rest = c.columns - first, count = rest < kEnergyRun ? rest : kEnergyRun;
    auto* out = static_cast<typename E::Compute*>(c.energy) + row * c.columns + first;
    const auto* w = static_cast<const typename E::Stored*>(c.weight) + row * c.columns * c.terms;
    if (c.terms_inside) {
      energies_of_neighbors<E>(w + first * c.terms, count, c.terms, out);
    } else {
      energies_side_by_side<E>(w + first, count, c.terms, c.columns, out);
    }
  }
}

// The sum in (2) over neighboring energies; of kEnergyTerms vectors in the precision of T.
template <class T>
SDD_FN double sum_of_row(const T* e, const T* squares, int64_t inputs) {
  constexpr int streams = 4, step = streams * lanes<T>;
  constexpr int64_t tile = kEnergyTerms * lanes<T>;
  double total = 0;
  int64_t i = 0;
  while (i + step <= inputs) {
    const int64_t stop = inputs - i < tile ? inputs : i + tile;
    Vector<T> sum[streams] = {};
    for (; i + step <= stop; i += step) {
      for (int s = 0; s < streams; ++s) {
        const int64_t at = i + s * lanes<T>;
        sum[s] += load(squares + at) * load(e + at);
      }
    }
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (int l = 0; l < lanes<T>; ++l) total += double(sum[0][l]);
  }
  for (; i < inputs; ++i) total += double(squares[i]) * double(e[i]);
  return total;
}

template <class T>
void factors(const Factors& f, int64_t begin, int64_t end) {
  const Demodulation& d = f.of;
  const T* e = static_cast<const T*>(d.energy);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kFactorRun, rest = d.outputs - first;
    const int64_t count = rest < kFactorRun ? rest : kFactorRun;
    for (int64_t n = 0; n < d.samples; ++n) {
      const T* squares = static_cast<const T*>(f.squares) + n * d.inputs;
      T* out = static_cast<T*>(d.factor) + n * d.outputs;
      for (int64_t o = first; o < first + count; ++o) {
        out[o] = T(demodulation_factor(sum_of_row(e + o * d.inputs, squares, d.inputs), d.eps));
      }
    }
  }
}

}  // namespace

void SDD_JOIN(demodulation_energies_, SDD_ISA)(const Energies& c, int64_t begin, int64_t end) {
  with_element(c.element, [&](auto element) { energies<decltype(element)>(c, begin, end); });
}

void SDD_JOIN(demodulation_factors_, SDD_ISA)(const Factors& f, int64_t begin, int64_t end) {
  f.of.element == Element::kFloat64 ? factors<double>(f, begin, end)
                                    : factors<float>(f, begin, end);
}

}  // namespace sdd
