// softmax_entropy_l1 on the GPU: the steps of chunk.h, which has the words too.
//
//   grid     a block of threads for each chunk of each row
//   block    reads its chunk once, into registers: values[] of each thread (chunk_device.h). At
//   each
//            step its threads add up what they hold, the block adds up the threads, and thread 0
//            decides on the next step; the last one leaves a partial
//   merge    a second kernel: a block for each row, in a fixed order
//
// Float64 is slow on many GPUs: only sums of many elements and what one thread of a block does are
// float64.
#include "chunk_device.h"
#include "gradient_device.h"

namespace sdd {
namespace {

// Blocks of a multiprocessor: what bounds their registers. With five, these would spill some.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
template <class Stored, bool kAbsMean>
constexpr int kBlocks = 4;
#else
template <class Stored, bool kAbsMean>
constexpr int kBlocks = kAbsMean || sizeof(Stored) == 8 ? 4 : 5;
#endif
template <class Stored>
constexpr int kEntries = sizeof(Stored) == 8 ? 8 : 16;  // of a thread
template <class Stored>
constexpr int kChunk = kThreads * kEntries<Stored>;

// x: [rows, n], or [rows, channels, n] with kAbsMean -> partials: [rows, chunks]. Grid: chunks,
// rows.
template <class Stored, bool kAbsMean>
__global__ void __launch_bounds__(kThreads, kBlocks<Stored, kAbsMean>)
    entropy_chunks(const Stored* __restrict__ x, int64_t n, int64_t row_stride, int64_t channels,
                   int64_t channel_stride, bool packs, Partial* __restrict__ partials) {
  using T = Compute<Stored>;
  constexpr bool trials = sizeof(T) == 4;
  constexpr int samples = 4;  // of a thread
  __shared__ double totals[trials ? 7 : 4];
  __shared__ Chunk<T> chunk;

  const int64_t first = blockIdx.x * int64_t(kChunk<Stored>);
  const int count = int(n - first < kChunk<Stored> ? n - first : kChunk<Stored>);
  const bool full = count == kChunk<Stored>;
  x += blockIdx.y * row_stride + first;
  T values[kEntries<Stored>];
  double offset = 0;
  if constexpr (kAbsMean) {
    offset = load_abs_mean(x, count, packs && full, channels, channel_stride, values);
  } else {
    load_entries(x, count, packs && full, values);
  }
  if (threadIdx.x == 0) {
    chunk = {double(count),
             offset,
             kAbsMean,
             full && trials ? Step::kSample : Step::kMoments,
             values[0],
             true,
             0,
             0,
             {}};
  }

  // Instead of what is not of the chunk.
  const auto fill = [&](T x) {
#pragma unroll
    for (int i = 0; i < kEntries<Stored>; ++i) {
      if (place<Stored>(i) >= count) values[i] = x;
    }
  };
  // Of all entries, the L1 norm and what add() says.
  const auto add_up = [&](T shift, auto& sums, const auto& add) {
    for (auto& sum : sums) sum = 0;
#pragma unroll
    for (int i = 0; i < kEntries<Stored>; ++i) {
      sums[0] += kAbsMean ? values[i] : absolute(values[i]);
      add(values[i] - shift, sums);
    }
    block_totals(sums, totals);
  };

  while (true) {
    __syncthreads();
    const Step step = chunk.step;
    const T shift = chunk.shift;
    if (step == Step::kDone) break;
    if (step == Step::kMoments) {
      fill(0);
      T sums[4] = {0, 0, -T(kInfinity), -T(kInfinity)};
#pragma unroll
      for (int i = 0; i < kEntries<Stored>; ++i) {
        const T v = values[i];
        sums[0] += v;
        sums[1] += absolute(v);
        if (place<Stored>(i) >= count) continue;
        sums[2] = v > sums[2] ? v : sums[2];
        sums[3] = -v > sums[3] ? -v : sums[3];
      }
      block_totals<2>(sums, totals);
      if (threadIdx.x == 0) chunk.moments(totals);
    } else if (step == Step::kExact) {
      fill(shift);
      T sums[3];
      add_up(shift, sums, [](T u, auto& s) { add_exact(u, s); });
      if (threadIdx.x == 0) chunk.exact(totals);
    } else if (step == Step::kPlain) {
      fill(-T(kInfinity));
      T sums[3];
      add_up(shift, sums, [](T u, auto& s) { add_plain(u, s); });
      if (threadIdx.x == 0) chunk.plain(totals);
    } else if (step == Step::kWideMoments) {
      double sums[3] = {};
#pragma unroll
      for (int i = 0; i < kEntries<Stored>; ++i) {
        const double v = double(values[i]);
        sums[0] += v;
        sums[1] += absolute(v);
        sums[2] += absolute(v) < kInfinity ? 0 : 1;
      }
      block_totals(sums, totals);
      if (threadIdx.x == 0) chunk.wide_moments(totals);
    } else if constexpr (trials) {
      if (step == Step::kSample) {
        T sums[2] = {};
#pragma unroll
        for (int i = 0; i < kEntries<Stored>; i += kEntries<Stored> / samples) {
          add_sample(values[i] - shift, sums);
        }
        block_totals(sums, totals);
        if (threadIdx.x == 0) chunk.sampled(totals, samples * kThreads);
      } else if (step == Step::kPower4) {
        T sums[5];
        add_up(shift, sums, [](T u, auto& s) { add_powers<4>(u, s); });
        if (threadIdx.x == 0) chunk.template power<4>(totals);
      } else {
        T sums[7];
        add_up(shift, sums, [](T u, auto& s) { add_powers<6>(u, s); });
        if (threadIdx.x == 0) chunk.template power<6>(totals);
      }
    }
  }
  if (threadIdx.x == 0) partials[blockIdx.y * int64_t(gridDim.x) + blockIdx.x] = chunk.partial;
}

// partials: [rows, count] -> results. A block for each row; T: the precision of e^d in (3).
template <class T>
__global__ void __launch_bounds__(kThreads)
    merge_partials(const Partial* __restrict__ partials, int64_t count, int64_t n,
                   EntropyResults results, int64_t first_row) {
  __shared__ double totals[2];
  partials += blockIdx.x * count;
  const double offset = partials[0].offset;
  double highest[] = {-kInfinity}, l1[] = {0};
  for (int64_t k = threadIdx.x; k < count; k += kThreads) {
    const double shift = partials[k].shift + (partials[k].offset - offset);
    highest[0] = shift > highest[0] ? shift : highest[0];
    l1[0] += partials[k].l1;
  }
  block_totals<1>(highest, totals);
  double shift = totals[0];
#pragma unroll 1
  for (const bool again : {false, true}) {
    double sums[2] = {};
    for (int64_t k = threadIdx.x; k < count; k += kThreads) {
      add_moved<T>(partials[k], offset, shift, sums);
    }
    block_totals(sums, totals);
    if (!again) shift += __builtin_log1p(totals[0] / double(n));  // (1): here nothing cancels
  }
  const double sums[] = {totals[0], totals[1]};
  block_totals(l1, totals);
  if (threadIdx.x != 0) return;
  write_results(results, first_row + blockIdx.x, double(n), offset, shift, sums, totals[0]);
}

template <class Stored, bool kAbsMean>
void entropy(const EntropyMaps& c, const EntropyResults& results, double* workspace,
             Stream stream) {
  const int64_t chunks = divide_up(c.n, kChunk<Stored>);
  const auto* x = static_cast<const Stored*>(c.x);
  auto* partials = reinterpret_cast<Partial*>(workspace);
  const bool packs = aligned_for_packs(x) && c.row_stride % kPack<Stored> == 0 &&
                     c.channel_stride % kPack<Stored> == 0;
  constexpr int64_t most = 65535;  // rows of one launch
  for (int64_t row = 0; row < c.rows; row += most) {
    const auto rows = unsigned(c.rows - row < most ? c.rows - row : most);
    launch("softmax_entropy_l1", entropy_chunks<Stored, kAbsMean>, dim3(unsigned(chunks), rows),
           kThreads, stream, x + row * c.row_stride, c.n, c.row_stride, c.channels,
           c.channel_stride, packs, partials);
    launch("softmax_entropy_l1", merge_partials<Compute<Stored>>, dim3(rows), kThreads, stream,
           partials, chunks, c.n, results, row);
  }
}

}  // namespace

int64_t entropy_workspace(const EntropyMaps& c) {
  const int64_t chunk = c.element == Element::kFloat64 ? kChunk<double> : kChunk<float>;
  return c.rows * divide_up(c.n, chunk) * int64_t(sizeof(Partial) / sizeof(double));
}

void softmax_entropy_l1_cuda(const EntropyMaps& c, const EntropyResults& results, double* workspace,
                             Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    c.channels > 0 ? entropy<Stored, true>(c, results, workspace, stream)
                   : entropy<Stored, false>(c, results, workspace, stream);
  });
}

void softmax_entropy_l1_backward_cuda(const EntropyMaps& c, const GradientRows& rows, void* grad,
                                      Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    c.channels > 0 ? gradient_of<Stored, true>(c, rows, grad, stream)
                   : gradient_of<Stored, false>(c, rows, grad, stream);
  });
}

}  // namespace sdd
