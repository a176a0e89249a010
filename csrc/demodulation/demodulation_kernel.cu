// demodulation on the GPU. Formulas: demodulation.h.
//
// The energies are a pass over the weights, contiguous or channels_last: the strides are the
// launch's. What remains is small: the energies are read once for every sample, from the
// second-level cache.
#include <algorithm>

#include "../common/device_elements.h"
#include "../common/device_sums.h"
#include "../common/fast_divide.h"
#include "demodulation_kernel.h"

namespace sdd {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTerms = 9;                                     // of a sum in flight: a kernel of 3x3
constexpr int64_t kMaxGrid = 65535;                           // in y
constexpr int64_t kMaxElements = (int64_t{1} << 31) - 65536;  // for 32-bit indices

// A sum over terms first, first + step ... below `terms`; term(k) is 0 or positive.
template <class C, int kUnroll, class Term>
__device__ __forceinline__ double sum_of_terms(int64_t first, int64_t step, int64_t terms,
                                               const Term& term) {
  double total = 0;
#pragma unroll 1
  for (int64_t k = first; k < terms; k += kUnroll * step) {
    C sum = 0;  // of few: of many it takes a double
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      if (k + j * step < terms) sum += term(k + j * step);
    }
    total += sum;
  }
  return total;
}

// (1) for `count` columns, `columns` of each row, `width` lanes of a warp, a power of two, for
// each.
template <class Stored>
__global__ void __launch_bounds__(kThreads)
    demodulation_energies(const Stored* __restrict__ w, Compute<Stored>* __restrict__ energy,
                          int64_t row_columns, int64_t terms, int64_t column_stride,
                          int64_t term_stride, FastDivide columns, uint32_t count, int width) {
  using C = Compute<Stored>;
  const uint32_t index = blockIdx.x * (kThreads / width) + threadIdx.x / width;
  const uint32_t row = columns.quotient(index), column = index - row * columns.divisor;
  const Stored* from = w + row * row_columns * terms + column * column_stride;
  double sum = 0;
  if (index < count) {
    sum = sum_of_terms<C, kTerms>(threadIdx.x % width, width, terms, [&](int64_t k) {
      const C v = widened(from[k * term_stride]);
      return v * v;
    });
  }
  for (int distance = width / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  if (index < count && threadIdx.x % width == 0) energy[row * row_columns + column] = C(sum);
}

// (2): a warp makes each factor. energy: [outputs, inputs], styles: [samples, inputs]
template <class C>
__global__ void __launch_bounds__(kThreads)
    demodulation_factors(const C* __restrict__ energy, AnyElements<C> styles,
                         C* __restrict__ factor, int64_t first_sample, int64_t outputs,
                         int64_t inputs, double eps) {
  const int64_t sample = first_sample + blockIdx.y;
  const int64_t output = blockIdx.x * int64_t(kWarps) + threadIdx.x / kWarp;
  if (output >= outputs) return;
  const C* e = energy + output * inputs;
  double sum = sum_of_terms<C, 4>(threadIdx.x % kWarp, kWarp, inputs, [&](int64_t i) {
    const C style = styles[sample * inputs + i];
    return style * style * e[i];
  });
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) {
    factor[sample * outputs + output] = C(demodulation_factor(sum, eps));
  }
}

template <class Stored>
void energies(const Demodulation& c, Stream stream) {
  int width = 1;  // lanes for neighbors of which there are more than a thread has in flight
  while (c.terms_inside && width < kWarp && width * kTerms < c.terms) width *= 2;
  const auto* w = static_cast<const Stored*>(c.weight);
  auto* energy = static_cast<Compute<Stored>*>(c.energy);
  const int64_t column_stride = c.terms_inside ? c.terms : 1;
  // As many rows, or as much of one, as 32-bit indices allow.
  const int64_t length = std::min(c.columns, kMaxElements), most = kMaxElements / length;
  for (int64_t row = 0; row < c.rows; row += most) {
    const int64_t rows = std::min(most, c.rows - row);
    for (int64_t column = 0; column < c.columns; column += length) {
      const int64_t columns = std::min(length, c.columns - column), count = rows * columns;
      launch("demodulation", demodulation_energies<Stored>,
             dim3(unsigned(divide_up(count, kThreads / width))), kThreads, stream,
             w + row * c.columns * c.terms + column * column_stride,
             energy + row * c.columns + column, c.columns, c.terms, column_stride,
             c.terms_inside ? 1 : c.columns, FastDivide(columns), uint32_t(count), width);
    }
  }
}

template <class C>
void factors(const Demodulation& c, Stream stream) {
  const int64_t blocks = divide_up(c.outputs, kWarps);
  for (int64_t first = 0; first < c.samples; first += kMaxGrid) {
    launch("demodulation", demodulation_factors<C>,
           dim3(unsigned(blocks), unsigned(std::min(kMaxGrid, c.samples - first))), kThreads,
           stream, static_cast<const C*>(c.energy), AnyElements<C>{c.styles, c.element},
           static_cast<C*>(c.factor), first, c.outputs, c.inputs, c.eps);
  }
}

}  // namespace

void demodulation_cuda(const Demodulation& c, Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    if (c.rows * c.columns > 0) energies<Stored>(c, stream);
  });
  if (c.outputs == 0) return;
  c.element == Element::kFloat64 ? factors<double>(c, stream) : factors<float>(c, stream);
}

}  // namespace sdd
