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
constexpr int kTerms = 9;                                    // of a sum in flight: a kernel of 3x3
constexpr int64_t kMaxGrid = 65535;                          // in y
constexpr int64_t kMaxNumbers = (int64_t{1} << 31) - 65536;  // for 32-bit indices

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
    sum = sum_of_terms<C, kTerms>(threadIdx.x % width, width, terms, [&](int64_t k) {
      const C v = widened(from[k * term_stride]);
      return v * v;
    });
  }
  for (int distance = width / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  if (index < count && threadIdx.x % width == 0) energy[row * row_numbers + number] = C(sum);
}

// What is squared and weighted: the styles of one sample, in any of the types that C computes for.
template <class C>
struct Styles {
  const void* numbers;
  Element element;

  __device__ __forceinline__ C operator[](int64_t i) const {
    if constexpr (sizeof(C) == sizeof(double)) {
      return static_cast<const double*>(numbers)[i];
    } else if (element == Element::kFloat32) {
      return static_cast<const float*>(numbers)[i];
    } else if (element == Element::kFloat16) {
      return widened(static_cast<const __half*>(numbers)[i]);
    } else {
      return widened(static_cast<const __nv_bfloat16*>(numbers)[i]);
    }
  }
};

// (2). Of energies [outputs, inputs] a warp makes each factor; where they are turned, [inputs,
// outputs], a block makes as many as a warp has lanes, and each warp a part of the sums.
template <class C>
__global__ void __launch_bounds__(kThreads)
    demodulation_factors(const C* __restrict__ energy, Styles<C> styles, C* __restrict__ factor,
                         int64_t first_sample, int64_t outputs, int64_t inputs, bool turned,
                         double eps) {
  __shared__ double sums[kWarps][kWarp];
  const int64_t sample = first_sample + blockIdx.y;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t output = turned ? blockIdx.x * int64_t(kWarp) + lane  //
                                : blockIdx.x * int64_t(kWarps) + warp;
  const C* e = energy + output * (turned ? 1 : inputs);
  const int64_t stride = turned ? outputs : 1;
  double sum = 0;
  if (output < outputs) {
    sum = sum_of_terms<C, 4>(turned ? warp : lane, turned ? kWarps : kWarp, inputs, [&](int64_t i) {
      const C style = styles[sample * inputs + i];
      return style * style * e[i * stride];
    });
  }
  if (turned) {
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || output >= outputs) return;
    for (int other = 1; other < kWarps; ++other) sum += sums[other][lane];
  } else {
    sum = warp_sum(sum);
    if (lane != 0 || output >= outputs) return;
  }
  factor[sample * outputs + output] = C(demodulation_factor(sum, eps));
}

template <class Stored>
void energies(const DemodulationCuda& c, Stream stream) {
  int width = 1;  // lanes for neighbours of which there are more than a thread has in flight
  while (c.terms_inside && width < kWarp && width * kTerms < c.terms) width *= 2;
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

template <class C>
void factors(const DemodulationCuda& c, Stream stream) {
  const int64_t blocks = divide_up(c.outputs, c.turned ? kWarp : kWarps);
  for (int64_t first = 0; first < c.samples; first += kMaxGrid) {
    launch("demodulation", demodulation_factors<C>,
           dim3(unsigned(blocks), unsigned(std::min(kMaxGrid, c.samples - first))), kThreads,
           stream, static_cast<const C*>(c.energy), Styles<C>{c.styles, c.element},
           static_cast<C*>(c.factor), first, c.outputs, c.inputs, c.turned, c.eps);
  }
}

}  // namespace

void demodulation_cuda(const DemodulationCuda& c, Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    if (c.rows * c.numbers > 0) energies<Stored>(c, stream);
  });
  if (c.outputs == 0) return;
  c.element == Element::kFloat64 ? factors<double>(c, stream) : factors<float>(c, stream);
}

}  // namespace sdd
