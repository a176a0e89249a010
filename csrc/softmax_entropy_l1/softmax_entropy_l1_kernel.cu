// softmax_entropy_l1 on the GPU. Formulas: softmax_entropy_l1.h.
//
// A block reads its chunk of a row once, into registers. A sample of it tells a shift c, and by its
// variance the cheapest formula that can be expected to do; the sums tell afterwards whether it
// did. If not, the range of the elements, which are still there, chooses another. What the chunks
// leave behind are sums about shifts of their own: the last kernel moves them to a common one, in a
// fixed order. Float64 is slow on many GPUs: only sums of many elements and what one thread of a
// block does are float64.
#include "gradient_device.h"
#include "softmax_entropy_l1_device.h"
#include "softmax_entropy_l1_kernel.h"

namespace sdd {
namespace {

constexpr int kSmall = kWarp, kLarge = 256;  // threads of a block
// Blocks of a multiprocessor: what bounds their registers. On sm_120 five would spill some.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
template <class Stored>
constexpr int kBlocks = 4;
#else
template <class Stored>
constexpr int kBlocks = sizeof(Stored) == 8 ? 4 : 5;
#endif
constexpr int kManyTiles = 4;        // in a row: then large ones
constexpr int64_t kMaxRows = 65535;  // of one launch
constexpr double kInfinity = __builtin_inf();

// Of a chunk of a row, or of several neighbors: with u = x - offset - shift
struct alignas(16) Part {
  double offset;  // apart: it may be so large that it would cost the shift its digits
  double shift;   // near log mean e^(x - offset)
  double count;   // of the elements
  double expm1;   // sum of expm1(u)
  double excess;  // sum of f(u)
  double l1;
};
constexpr int kPartDoubles = sizeof(Part) / sizeof(double);

// What the block does next with its elements.
enum class Step { kSample, kPower4, kPower6, kExact, kPlain, kMoments, kWideMoments, kDone };

// How thread 0 gets from the sums of one step to the next step, and at last to the part. It is in
// shared memory, where all threads see the step and its shift.
template <class T>
struct Chunk {
  double count;
  double offset;  // what the elements lack
  bool abs_mean;
  Step step;
  T shift;
  bool trial;  // shift and formula come from the sample
  double l1, highest;
  Part part;

  __device__ void go(Step next, T at) {
    step = next;
    shift = at;
  }
  __device__ void finish(double center, double expm1, double excess) {
    part = {offset, center, count, expm1, excess, abs_mean ? l1 + count * offset : l1};
    step = Step::kDone;
  }
  __device__ void without_trial() {
    trial = false;
    step = Step::kMoments;
  }

  // Bounds for normal numbers: where the series still converge, and where D is well above 0.1.
  __device__ void sampled(const double* sums, int elements) {
    const T mean = T(sums[0]) / T(elements);
    const T variance = T(sums[1]) / T(elements) - mean * mean;
    const T center = shift + mean;
    if (variance < T(8e-6)) return go(Step::kPower4, center);
    if (variance < T(0.0024)) return go(Step::kPower6, center);
    if (variance < T(0.3)) return go(Step::kExact, center);
    if (variance < T(36)) return go(Step::kPlain, center + variance);  // E[u e^u] is small there
    without_trial();
  }

  template <int kOrder>
  __device__ void power(const double* sums) {
    const PowerSums<double, kOrder> p{
        sums[1], sums[2], sums[3], sums[4], kOrder == 6 ? sums[5] : 0, kOrder == 6 ? sums[6] : 0};
    const bool near_mean = p.s1 * p.s1 <= 0.5 * count * p.s2;
    if (!near_mean || !series_converged(p)) return without_trial();
    const TermSums terms = sum_series(p);
    l1 = sums[0];
    finish(double(shift), terms.expm1, terms.excess);
  }

  __device__ void exact(const double* sums) {
    if (trial) {
      // The second term of (2), at most a^2 / (1 + a), must not cost F digits.
      const bool good = 2 * sums[1] * sums[1] <= sums[2] * count && magnitude(sums[0]) < kInfinity;
      if (!good) return without_trial();
      l1 = sums[0];
    }
    finish(double(shift), sums[1], sums[2]);
  }

  __device__ void plain(const double* sums) {
    const double mass = sums[1], mean = sums[2] / mass;
    const double log_mean = __builtin_log(mass / count), deficit = mean - log_mean;
    if (trial && !(deficit > 0.1 && magnitude(mean) < 8 && magnitude(sums[0]) < kInfinity)) {
      return without_trial();
    }
    // A few outliers: the best shift there is.
    if (!(deficit > 0.1)) return go(Step::kExact, T(highest + log_mean));
    if (trial) l1 = sums[0];
    finish(double(shift) + log_mean, 0, deficit * count);
  }

  __device__ void moments(const double* sums) {
    const double lowest = -sums[3];
    highest = sums[2];
    trial = false;
    if (!(sums[1] < kInfinity)) return go(Step::kWideMoments, 0);
    l1 = abs_mean ? sums[0] : sums[1];
    const double mean = sums[0] / count;
    const double center = mean < lowest ? lowest : mean > highest ? highest : mean;
    const bool narrow = highest - center <= 1.5 && center - lowest <= 20;
    narrow ? go(Step::kExact, T(center)) : go(Step::kPlain, T(highest));
  }

  // NaN, infinities, or elements near the end of the range of T.
  __device__ void wide_moments(double sum, double abs_sum, double infinite) {
    l1 = abs_mean ? sum : abs_sum;
    if (infinite == 0) return go(Step::kPlain, T(highest));
    finish(0, __builtin_nan(""), __builtin_nan(""));
  }
};

// x: [rows, n], or [rows, channels, n] with kAbsMean -> parts: [rows, chunks]. Grid: chunks, rows.
template <class Stored, bool kAbsMean, int kThreads>
__global__ void __launch_bounds__(kThreads, kThreads == kLarge ? kBlocks<Stored> : 16)
    entropy_chunks(const Stored* __restrict__ x, int64_t n, int64_t row_stride, int64_t channels,
                   int64_t channel_stride, bool packs, Part* __restrict__ parts) {
  using OurTile = Tile<Stored, kAbsMean, kThreads>;
  using T = typename OurTile::T;
  using Held = typename OurTile::Held;
  constexpr int statistics = sizeof(T) == 4 ? 7 : 4;
  __shared__ T of_thread[statistics][kThreads];
  __shared__ double totals[statistics];
  __shared__ Chunk<T> chunk;

  const int64_t first = blockIdx.x * int64_t(OurTile::size);
  const int count = int(n - first < OurTile::size ? n - first : OurTile::size);
  const bool full = count == OurTile::size;
  x += blockIdx.y * row_stride + first;
  OurTile tile;
  const double offset = load_tile(x, count, packs, channels, channel_stride, tile);
  if (threadIdx.x == 0) {
    chunk = {double(count), offset, kAbsMean, Step::kMoments, tile.value(0), true, 0, 0, {}};
    if (full && sizeof(T) == 4) chunk.step = Step::kSample;
  }

  while (true) {
    __syncthreads();
    const Step step = chunk.step;
    const T shift = chunk.shift;
    if (step == Step::kDone) break;
    if (step == Step::kSample) {
      T sums[2];
      sample_sums(tile, shift, sums);
      block_totals<0>(sums, of_thread, totals);
      if (threadIdx.x == 0) chunk.sampled(totals, kSample * kThreads);
    } else if (step == Step::kPower4) {
      if constexpr (sizeof(T) == 4) {
        T sums[5];
        power_sums<4>(tile, shift, sums);
        block_totals<0>(sums, of_thread, totals);
        if (threadIdx.x == 0) chunk.template power<4>(totals);
      }
    } else if (step == Step::kPower6) {
      if constexpr (sizeof(T) == 4) {
        T sums[7];
        power_sums<6>(tile, shift, sums);
        block_totals<0>(sums, of_thread, totals);
        if (threadIdx.x == 0) chunk.template power<6>(totals);
      }
    } else if (step == Step::kExact) {
      T sums[3];
      if (!full) tile.fill(shift, count);
      exact_sums(tile, shift, sums);
      block_totals<0>(sums, of_thread, totals);
      if (threadIdx.x == 0) chunk.exact(totals);
    } else if (step == Step::kPlain) {
      T sums[3];
      if (!full) tile.fill(-T(kInfinity), count);
      plain_sums(tile, shift, sums);
      block_totals<0>(sums, of_thread, totals);
      if (threadIdx.x == 0) chunk.plain(totals);
    } else if (step == Step::kMoments) {
      T sums[4];
      moments(tile, count, sums);
      block_totals<2>(sums, of_thread, totals);
      if (threadIdx.x == 0) chunk.moments(totals);
    } else {
      double sum = 0, abs_sum = 0, infinite = 0;
#pragma unroll
      for (int i = 0; i < OurTile::kElements; ++i) {
        const double v = double(tile.value(i));
        sum += v;
        abs_sum += magnitude(v);
        infinite += magnitude(v) < kInfinity ? 0 : 1;
      }
      sum = block_sum<kThreads>(sum);
      abs_sum = block_sum<kThreads>(abs_sum);
      infinite = block_sum<kThreads>(infinite);
      if (threadIdx.x == 0) chunk.wide_moments(sum, abs_sum, infinite);
    }
    // As an element of the tile: where the end of a row leaves it short, it is filled with c.
    if (threadIdx.x == 0 && !full) chunk.shift = widened(narrowed<Held>(chunk.shift));
  }
  if (threadIdx.x == 0) parts[blockIdx.y * int64_t(gridDim.x) + blockIdx.x] = chunk.part;
}

constexpr int kPartsOfThread = 4;
template <int kThreads>
constexpr int64_t kPartsOfBlock = kThreads * kPartsOfThread;

// The highest of the threads of a block, for all of them; NaN does not count.
template <int kThreads>
__device__ __forceinline__ double block_maximum(double value) {
  __shared__ double of_warp[kThreads / kWarp];
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const double other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int w = 0; w < kThreads / kWarp; ++w) value = of_warp[w] > value ? of_warp[w] : value;
  return value;
}

// Adds the sums of a part about another shift. With e^d from shift to shift:
//   expm1(u + d) = e^d expm1(u) + expm1(d),   f(u + d) = e^d (f(u) + d expm1(u)) + f(d).
template <class T>
__device__ __forceinline__ void add_moved(const Part& part, double shift, double& expm1,
                                          double& excess) {
  const double d = part.shift - shift;
  const ExpTerms<T> t = exp_terms<T>(T(d));
  const double scale = 1 + double(t.expm1);
  expm1 += scale * part.expm1 + part.count * double(t.expm1);
  excess += scale * (part.excess + d * part.expm1) + part.count * double(t.excess);
}

// parts: [rows, count] -> merged: [rows, groups], or, where there is one group, the results. Grid:
// groups, rows. T: the precision of e^d.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    merge_parts(const Part* __restrict__ parts, int64_t count, double log_n,
                Part* __restrict__ merged, EntropyResults results, int64_t first_row) {
  __shared__ double common;
  const int64_t first = blockIdx.x * kPartsOfBlock<kThreads>;
  parts += blockIdx.y * count + first;
  const double offset = parts[0].offset;
  Part part[kPartsOfThread];
  double elements = 0, l1 = 0, highest = -kInfinity;
#pragma unroll
  for (int j = 0; j < kPartsOfThread; ++j) {
    const int k = j * kThreads + int(threadIdx.x);
    part[j] = {};
    if (first + k >= count) continue;
    part[j] = parts[k];
    part[j].shift += part[j].offset - offset;
    elements += part[j].count;
    l1 += part[j].l1;
    highest = part[j].shift > highest ? part[j].shift : highest;
  }
  highest = block_maximum<kThreads>(highest);
  elements = block_sum<kThreads>(elements);
  l1 = block_sum<kThreads>(l1);
  // In thread 0, the sums over all parts.
  const auto moved_to = [&](double shift, double& expm1, double& excess) {
    expm1 = excess = 0;
#pragma unroll
    for (int j = 0; j < kPartsOfThread; ++j) {
      if (part[j].count > 0) add_moved<T>(part[j], shift, expm1, excess);
    }
    expm1 = block_sum<kThreads>(expm1);
    excess = block_sum<kThreads>(excess);
  };
  double expm1, excess;
  moved_to(highest, expm1, excess);
  // log mean e^x, by (1): there nothing cancels.
  if (threadIdx.x == 0) common = highest + __builtin_log1p(expm1 / elements);
  __syncthreads();
  const double shift = common;
  moved_to(shift, expm1, excess);
  if (threadIdx.x != 0) return;
  if (gridDim.x > 1) {
    merged[blockIdx.y * int64_t(gridDim.x) + blockIdx.x] = {offset, shift,  elements,
                                                            expm1,  excess, l1};
    return;
  }
  RowStats stats;
  finish_stats(shift, expm1 / elements, excess / elements, &stats);
  const int64_t row = first_row + blockIdx.y;
  const double entropy = log_n - stats.deficit;
  results.entropy[row] = entropy < 0 ? 0 : entropy;  // rounding; NaN stays NaN
  results.l1[row] = l1;
  results.deficit[row] = stats.deficit;
  results.log_mean_exp[row] = offset + stats.log_mean_exp;
}

template <class Stored, bool kAbsMean>
int threads_for(int64_t n) {
  return n < kManyTiles * Tile<Stored, kAbsMean, kLarge>::size ? kSmall : kLarge;
}

template <class Stored, bool kAbsMean>
int64_t elements_of_chunk(int64_t n) {
  return int64_t{Tile<Stored, kAbsMean, kLarge>::kElements} * threads_for<Stored, kAbsMean>(n);
}

// A row of many parts is merged by groups.
int64_t groups_of(int64_t count) { return divide_up(count, kPartsOfBlock<kLarge>); }

template <class T>
void merge(const EntropyResults& results, int64_t n, Part* parts, int64_t count, int64_t first_row,
           int64_t rows, Stream stream) {
  const bool few = count <= kPartsOfBlock<kSmall>;
  const int64_t groups = groups_of(count);
  Part* merged = parts + rows * count;
  launch("softmax_entropy_l1", few ? merge_parts<T, kSmall> : merge_parts<T, kLarge>,
         dim3(unsigned(groups), unsigned(rows)), few ? kSmall : kLarge, stream, parts, count,
         __builtin_log(double(n)), merged, results, first_row);
  if (groups > 1) merge<T>(results, n, merged, groups, first_row, rows, stream);
}

template <class Stored, bool kAbsMean>
void entropy(const EntropyMaps& c, const EntropyResults& results, double* workspace,
             Stream stream) {
  const int threads = threads_for<Stored, kAbsMean>(c.n);
  const int64_t chunks = divide_up(c.n, elements_of_chunk<Stored, kAbsMean>(c.n));
  const auto* x = static_cast<const Stored*>(c.x);
  auto* parts = reinterpret_cast<Part*>(workspace);
  const bool packs = aligned_for_packs(x) && c.row_stride % kPack<Stored> == 0 &&
                     c.channel_stride % kPack<Stored> == 0;
  for (int64_t row = 0; row < c.rows; row += kMaxRows) {
    const int64_t rows = c.rows - row < kMaxRows ? c.rows - row : kMaxRows;
    launch("softmax_entropy_l1",
           threads == kSmall ? entropy_chunks<Stored, kAbsMean, kSmall>
                             : entropy_chunks<Stored, kAbsMean, kLarge>,
           dim3(unsigned(chunks), unsigned(rows)), threads, stream, x + row * c.row_stride, c.n,
           c.row_stride, c.channels, c.channel_stride, packs, parts);
    merge<Compute<Stored>>(results, c.n, parts, chunks, row, rows, stream);
  }
}

}  // namespace

int64_t entropy_workspace(const EntropyMaps& c) {
  int64_t size = 0;
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    size = c.channels > 0 ? elements_of_chunk<Stored, true>(c.n)
                          : elements_of_chunk<Stored, false>(c.n);
  });
  int64_t of_row = 0, parts = divide_up(c.n, size);
  for (; parts > 1; parts = groups_of(parts)) of_row += parts;
  return (of_row + 1) * (c.rows < kMaxRows ? c.rows : kMaxRows) * kPartDoubles;
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
