// demodulation on the GPU. Formulas: demodulation.h.
//
// The energies are a pass over the weights, wherever the numbers of a kernel lie: its strides are
// the launch's. What remains is small: the energies are read once for every sample, from the
// second-level cache.
#include <algorithm>

#include "../common/device_elements.h"
#include "../common/fast_divide.h"
#include "../common/reduce.h"
#include "demodulation.h"
#include "demodulation_cuda.h"

namespace sdd {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kUnroll = 9;                                   // loads in flight: a kernel of 3x3
constexpr int64_t kMaxGrid = 65535;                          // in y
constexpr int64_t kMaxNumbers = (int64_t{1} << 31) - 65536;  // for 32-bit indices

// A sum over terms first, first + step ... below `terms`; term(k) is 0 or positive.
template <class C, class Term>
__device__ __forceinline__ double sum_of_terms(int64_t first, int64_t step, int64_t terms,
                                               const Term& term) {
  double total = 0;
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

// (1) for `count` numbers of rows of `numbers`, `width` lanes of a warp, a power of two, for each.
template <class Stored>
__global__ void __launch_bounds__(kThreads)
    demodulation_energies(const Stored* __restrict__ w, Compute<Stored>* __restrict__ energy,
                          int64_t row_numbers, int64_t terms, int64_t number_stride,
                          int64_t term_stride, FastDivide numbers, uint32_t count, int width) {
  using C = Compute<Stored>;
  const uint32_t index = blockIdx.x * (kThreads / width) + threadIdx.x / width;
  const uint32_t row = numbers.quotient(index), number = index - row * numbers.divisor;
  const Stored* from = w + row * row_numbers * terms + number * number_stride;
  double sum = 0;
  if (index < count) {
    sum = sum_of_terms<C>(threadIdx.x % width, width, terms, [&](int64_t k) {
      const C v = widened(from[k * term_stride]);
      return v * v;
    });
  }
  for (int distance = width / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  if (index < count && threadIdx.x % width == 0) energy[row * row_numbers + number] = C(sum);
}

// (2) of energies [outputs, inputs], a warp for each factor
template <class Stored>
__global__ void __launch_bounds__(kThreads)
    demodulation_of_rows(const Compute<Stored>* __restrict__ energy,
                         const Stored* __restrict__ styles, Compute<Stored>* __restrict__ factor,
                         int64_t first_sample, int64_t outputs, int64_t inputs, double eps) {
  using C = Compute<Stored>;
  const int64_t sample = first_sample + blockIdx.y;
  const int64_t output = blockIdx.x * int64_t(kWarps) + threadIdx.x / kWarp;
  if (output >= outputs) return;  // a whole warp
  const Stored* s = styles + sample * inputs;
  const C* e = energy + output * inputs;
  const double sum = warp_sum(sum_of_terms<C>(threadIdx.x % kWarp, kWarp, inputs, [&](int64_t i) {
    const C style = widened(s[i]);
    return style * style * e[i];
  }));
  if (threadIdx.x % kWarp == 0) {
    factor[sample * outputs + output] = C(demodulation_factor(sum, eps));
  }
}

// The same of energies [inputs, outputs], a block for as many factors as a warp has lanes.
template <class Stored>
__global__ void __launch_bounds__(kThreads)
    demodulation_of_columns(const Compute<Stored>* __restrict__ energy,
                            const Stored* __restrict__ styles, Compute<Stored>* __restrict__ factor,
                            int64_t first_sample, int64_t outputs, int64_t inputs, double eps) {
  using C = Compute<Stored>;
  __shared__ double sums[kWarps][kWarp];
  const int64_t sample = first_sample + blockIdx.y;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t output = blockIdx.x * int64_t(kWarp) + lane;
  const Stored* s = styles + sample * inputs;
  if (output < outputs) {
    sums[warp][lane] = sum_of_terms<C>(warp, kWarps, inputs, [&](int64_t i) {
      const C style = widened(s[i]);
      return style * style * energy[i * outputs + output];
    });
  }
  __syncthreads();
  if (warp != 0 || output >= outputs) return;
  double sum = 0;
  for (int part = 0; part < kWarps; ++part) sum += sums[part][lane];
  factor[sample * outputs + output] = C(demodulation_factor(sum, eps));
}

template <class Stored>
void energies(const DemodulationCuda& c, Stream stream) {
  int width = 1;  // lanes for neighbours of which there are more than a thread has in flight
  while (c.terms_inside && width < kWarp && width * kUnroll < c.terms) width *= 2;
  const auto* w = static_cast<const Stored*>(c.weight);
  auto* energy = static_cast<Compute<Stored>*>(c.energy);
  const int64_t number_stride = c.terms_inside ? c.terms : 1;
  // As many rows, or as much of one, as 32-bit indices allow.
  const int64_t length = std::min(c.numbers, kMaxNumbers), most = kMaxNumbers / length;
  for (int64_t row = 0; row < c.rows; row += most) {
    const int64_t rows = std::min(most, c.rows - row);
    for (int64_t number = 0; number < c.numbers; number += length) {
      const int64_t numbers = std::min(length, c.numbers - number), count = rows * numbers;
      launch("demodulation", demodulation_energies<Stored>,
             dim3(unsigned(divide_up(count, kThreads / width))), kThreads, stream,
             w + row * c.numbers * c.terms + number * number_stride,
             energy + row * c.numbers + number, c.numbers, c.terms, number_stride,
             c.terms_inside ? 1 : c.numbers, FastDivide(numbers), uint32_t(count), width);
    }
  }
}

template <class Stored>
void factors(const DemodulationCuda& c, Stream stream) {
  const auto kernel = c.turned ? demodulation_of_columns<Stored> : demodulation_of_rows<Stored>;
  const int64_t blocks = divide_up(c.outputs, c.turned ? kWarp : kWarps);
  for (int64_t first = 0; first < c.samples; first += kMaxGrid) {
    launch("demodulation", kernel,
           dim3(unsigned(blocks), unsigned(std::min(kMaxGrid, c.samples - first))), kThreads,
           stream, static_cast<const Compute<Stored>*>(c.energy),
           static_cast<const Stored*>(c.styles), static_cast<Compute<Stored>*>(c.factor), first,
           c.outputs, c.inputs, c.eps);
  }
}

}  // namespace

void demodulation_cuda(const DemodulationCuda& c, Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    if (c.rows * c.numbers > 0) energies<Stored>(c, stream);
    if (c.outputs > 0) factors<Stored>(c, stream);
  });
}

}  // namespace sdd
