// upfirdn2d on the GPU. Which inputs and which taps make an output: upfirdn2d.h.
//
// Strips, for what generators and discriminators do: a separable filter of at most kMostTaps taps
// that keeps, doubles or halves a size. A thread goes down a strip of rows. Of each row it reads
// the inputs in reach of its one or two columns, filters them along the row, and adds the result to
// the sums of the output rows that see it. What neighbors read as well comes from the first-level
// cache. No thread waits for another, nothing in between goes through memory, and planes may have
// any size, as threads are counted through columns, strips and planes alike.
//
// Windows, for everything else: windows_device.h.
#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "../common/fast_divide.h"
#include "windows_device.h"

namespace sdd {
namespace {

constexpr int kBlocks = 8;                 // at once on a multiprocessor: 64 registers a thread
constexpr int kMostTaps = 8;               // of a strip's filter
constexpr int kInFlight = 32;              // registers for inputs that are on their way
constexpr int64_t kManyThreads = 1 << 18;  // a large GPU runs as many at once
constexpr int64_t kMaxThreads = (int64_t{1} << 31) - kThreads;  // of a launch: FastDivide
constexpr int64_t kMaxLength = int64_t{1} << 28;                // of an axis of strips

// P * N sums as they are stored.
template <class Stored, int P, int N>
__device__ __forceinline__ Pack<Stored, P * N> packed(const Compute<Stored> (&sums)[P][N]) {
  Pack<Stored, P * N> pack;
#pragma unroll
  for (int i = 0; i < P * N; ++i) pack[i] = narrowed<Stored>(sums[i / N][i % N]);
  return pack;
}

// Sizes fit 32 bits, offsets need not.
template <class Stored>
struct Strips {
  const Stored* x;
  Stored* y;
  int64_t image_stride, channel_stride, row_stride, pixel_stride;
  int granule;
  struct {
    int pad, in, out;
  } rows, columns;
  int height;          // output rows of a strip
  int shift;           // rows of the first strip that lie above the image
  uint32_t threads;    // of this launch, with work to do
  uint32_t plane;      // the first one of this launch
  FastDivide in_line;  // threads along a row
  FastDivide in_pixel;
  FastDivide in_plane;  // strips
  FastDivide channels;
  int taps;
  Filter filter;
};

// How many channels of a pixel a thread takes. kPlane: there is one, and the next element is the
// next pixel. kOne: of any number of channels, anywhere.
enum class Of { kPlane, kOne, kPack };
template <Of kOf>
constexpr int kElements = kOf == Of::kPack ? kChannels : 1;

// A thread has N channels of P outputs along a row, as one pack.
template <class Stored, int N, int P, int kUp, int kDown, int kTaps>
struct StripShape {
  static_assert(kUp * kDown <= 2 && (P == 1 || (N == 1 && kUp * kDown == 1)));
  static constexpr bool exact = kTaps < kMostTaps;  // kTaps taps; otherwise that many or fewer
  static constexpr int terms = kTaps / kUp;         // of an output, along a row
  static constexpr int span = P - 1 + terms;        // inputs along a row
  static constexpr int open = terms / kDown;        // rows of sums, for each phase, that see a row
  // A pack in registers: in whole words, as 16-bit elements would take one each.
  static constexpr int words = N * int(sizeof(Stored)) > 4 ? N * int(sizeof(Stored)) / 4 : 1;
  using Held = std::conditional_t<(words > 1), Pack<uint32_t, words>, Pack<Stored, N>>;
  // Rows that are read before any of them is used.
  static constexpr int fit = kInFlight / (exact ? 1 : 2) / (span * words);
  static constexpr int rows = fit >= 8 && kUp == 1 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
  // A step uses kDown rows and completes kUp; so many are unrolled.
  static constexpr int steps = rows > kDown ? rows / kDown : 1;
};

// x: [planes, rows.in, columns.in, granule] -> y: [planes, rows.out, columns.out, granule]
template <class Stored, Of kOf, int P, int kUp, int kDown, int kTaps>
__global__ void __launch_bounds__(kThreads,
                                  kTaps < kMostTaps && kOf != Of::kOne ? kBlocks : kFewBlocks)
    upfirdn2d_strips(Strips<Stored> s) {
  static_assert(P == 1 || kOf == Of::kPlane);
  constexpr int N = kElements<kOf>;
  using C = Compute<Stored>;
  using Shape = StripShape<Stored, N, P, kUp, kDown, kTaps>;
  constexpr int terms = Shape::terms, span = Shape::span, open = Shape::open, rows = Shape::rows;

  __shared__ C taps[2][kTaps];  // of columns, gain included, and of rows
  if (threadIdx.x < 2 * kTaps) {
    const int a = threadIdx.x % kTaps;
    const double tap = a < s.taps ? tap_of(s.filter, s.taps, a) : 0;
    taps[threadIdx.x / kTaps][a] = C(threadIdx.x < kTaps ? tap * s.filter.gain : tap);
  }
  __syncthreads();
  const uint32_t thread = blockIdx.x * kThreads + threadIdx.x;
  if (thread >= s.threads) return;

  const uint32_t line = s.in_line.quotient(thread), place = s.in_line.remainder(thread);
  const int column = int(s.in_pixel.quotient(place)) * P;
  const int channel = int(s.in_pixel.remainder(place)) * N;
  const uint32_t plane = s.plane + s.in_plane.quotient(line);
  const int begin = int(s.in_plane.remainder(line)) * s.height - s.shift;

  const ResampleAxis down_axis{kUp, kDown, s.rows.pad, s.taps, s.rows.in, s.rows.out};
  const ResampleAxis along_axis{kUp, kDown, s.columns.pad, s.taps, s.columns.in, s.columns.out};
  const ResampleWindow along = whole_window(along_axis, column);
  const int count = Shape::exact ? terms : int(along.count);
  const int reach = P - 1 + count;
  const int first = int(along.index);
  const bool inside = first >= 0 && first + reach <= s.columns.in;

  C down_tap[kTaps], along_tap[terms];
#pragma unroll
  for (int a = 0; a < kTaps; ++a) down_tap[a] = taps[0][a];
#pragma unroll
  for (int k = 0; k < terms; ++k) along_tap[k] = taps[1][int(along.phase) + k * kUp];

  int row = int(whole_window(down_axis, begin).index);
  const int64_t pixel_stride = kOf == Of::kPlane ? 1 : s.pixel_stride;
  int64_t from = s.channels.quotient(plane) * s.image_stride +
                 s.channels.remainder(plane) * s.channel_stride + row * s.row_stride +
                 first * pixel_stride + channel;
  const int start = max(begin, 0), count_out = min(begin + s.height, s.rows.out) - start;
  const int64_t line_out = int64_t{s.columns.out} * s.granule;
  Stored* y = s.y + (int64_t{plane} * s.rows.out + start) * line_out + column * s.granule + channel;

  // Counted from `start`, the row whose sum is completed next; those before it are not wanted.
  int out = begin - (open - 1) * kUp - start;
  C sums[kUp][open][P][N] = {};  // for rows out + q, out + kUp + q, ...
  while (out < count_out) {
#pragma unroll
    for (int batch = 0; batch < Shape::steps * kDown; batch += rows) {
      typename Shape::Held held[rows][span] = {};
      if (inside && row >= 0 && row + rows <= s.rows.in) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
          for (int k = 0; k < span; ++k) {
            if (!Shape::exact && k >= reach) continue;
            held[r][k] = *reinterpret_cast<const typename Shape::Held*>(
                s.x + from + r * s.row_stride + k * pixel_stride);
          }
        }
      } else {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
          for (int k = 0; k < span; ++k) {
            if (row + r < 0 || row + r >= s.rows.in) continue;
            if (first + k < 0 || first + k >= s.columns.in || k >= reach) continue;
            held[r][k] = *reinterpret_cast<const typename Shape::Held*>(
                s.x + from + r * s.row_stride + k * pixel_stride);
          }
        }
      }
      row += rows;
      from += rows * s.row_stride;

#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const int turn = (batch + r) % kDown;  // which of the rows of a step
        Pack<Stored, N> x[span];
#pragma unroll
        for (int k = 0; k < span; ++k) x[k] = __builtin_bit_cast(Pack<Stored, N>, held[r][k]);
        C h[P][N];
#pragma unroll
        for (int p = 0; p < P; ++p) {
#pragma unroll
          for (int n = 0; n < N; ++n) {
            h[p][n] = along_tap[0] * widened(x[p][n]);
#pragma unroll
            for (int k = 1; k < terms; ++k) {
              if (k < count) h[p][n] += along_tap[k] * widened(x[p + k][n]);
            }
          }
        }
        // Strips begin where the window of the first output row of a step has phase kUp - 1, and
        // that of the second the same inputs and phase 0.
#pragma unroll
        for (int i = 0; i < open; ++i) {
#pragma unroll
          for (int q = 0; q < kUp; ++q) {
            const int a = ((open - 1 - i) * kDown + turn) * kUp + kUp - 1 - q;
            const bool fresh = i == open - 1 && turn == 0;
#pragma unroll
            for (int p = 0; p < P; ++p) {
#pragma unroll
              for (int n = 0; n < N; ++n) {
                C& sum = sums[q][i][p][n];
                if (turn == 0) sum = fresh ? C(0) : sums[q][fresh ? i : i + 1][p][n];
                if (!Shape::exact && a >= s.taps) continue;
                sum = fresh ? down_tap[a] * h[p][n] : sum + down_tap[a] * h[p][n];
              }
            }
          }
        }

        if (turn + 1 < kDown) continue;
#pragma unroll
        for (int q = 0; q < kUp; ++q) {
          if (unsigned(out + q) >= unsigned(count_out)) continue;
          store_pack(y, packed<Stored>(sums[q][0]));
          y += line_out;
        }
        out += kUp;
      }
    }
  }
}

template <class Stored, Of kOf, int P, int kUp, int kDown, int kTaps>
void run_strips(const Upfirdn2d& c, Strips<Stored> s, Stream stream) {
  constexpr int N = kElements<kOf>;
  using Shape = StripShape<Stored, N, P, kUp, kDown, kTaps>;
  // The window of output -shift has phase kUp - 1.
  s.shift = kUp == 2 && c.rows.pad % 2 == 0 ? 1 : 0;
  const int64_t planes = c.images * c.channels, packs = c.granule / N;
  const int64_t in_line = divide_up(c.columns.out, P) * packs;
  int64_t in_plane = 0;
  // Rows that two strips see are read twice; but the GPU wants threads.
  for (int64_t depth = 32; depth >= 8; depth /= 2) {
    if (depth < 2 * Shape::open && in_plane > 0) break;
    s.height = int(depth - (Shape::open - 1)) * kUp;
    in_plane = divide_up(c.rows.out + s.shift, s.height);
    if (planes * in_plane * in_line >= kManyThreads) break;
  }
  s.in_line = FastDivide(in_line);
  s.in_pixel = FastDivide(packs);
  s.in_plane = FastDivide(in_plane);
  const int64_t at_once = kMaxThreads / (in_line * in_plane);  // planes
  for (int64_t plane = 0; plane < planes; plane += at_once) {
    const int64_t threads = std::min(at_once, planes - plane) * in_plane * in_line;
    s.plane = uint32_t(plane);
    s.threads = uint32_t(threads);
    launch("upfirdn2d", upfirdn2d_strips<Stored, kOf, P, kUp, kDown, kTaps>,
           dim3(unsigned(divide_up(threads, kThreads))), kThreads, stream, s);
  }
}

template <class Stored, Of kOf, int kUp, int kDown>
void run_strips(const Upfirdn2d& c, const Strips<Stored>& s, Stream stream) {
  if constexpr (kOf != Of::kOne) {  // see strips()
    if (s.taps != 4) return run_strips<Stored, kOf, 1, kUp, kDown, kMostTaps>(c, s, stream);
  }
  if constexpr (kOf == Of::kPlane && kUp * kDown == 1 && sizeof(Stored) == 2) {
    // Two neighbors read five inputs, not eight, and are one word.
    if (s.columns.out % 2 == 0) return run_strips<Stored, kOf, 2, kUp, kDown, 4>(c, s, stream);
  }
  run_strips<Stored, kOf, 1, kUp, kDown, 4>(c, s, stream);
}

template <class Stored, Of kOf>
void run_strips(const Upfirdn2d& c, const Strips<Stored>& s, Stream stream) {
  if (c.rows.up == 2) return run_strips<Stored, kOf, 2, 1>(c, s, stream);
  if (c.rows.down == 2) return run_strips<Stored, kOf, 1, 2>(c, s, stream);
  run_strips<Stored, kOf, 1, 1>(c, s, stream);
}

// Whether there is a strip kernel for it, and it was started.
template <class Stored>
bool strips(const Upfirdn2d& c, Stream stream) {
  const ResampleAxis &r = c.rows, &k = c.columns;
  if (!c.filter.separable || r.taps > kMostTaps || r.up * r.down > 2) return false;
  for (const ResampleAxis* axis : {&r, &k}) {
    const int64_t longest = std::max({axis->in, axis->out, std::abs(axis->pad)});
    if (longest >= kMaxLength) return false;
  }
  if (c.images * c.channels >= kMaxThreads) return false;
  if (r.out * k.out * c.granule >= kMaxThreads / 4) return false;  // of one plane
  Strips<Stored> s{};
  s.x = static_cast<const Stored*>(c.x);
  s.y = static_cast<Stored*>(c.y);
  s.image_stride = c.image_stride;
  s.channel_stride = c.channel_stride;
  s.row_stride = c.row_stride;
  s.pixel_stride = c.pixel_stride;
  s.granule = int(c.granule);
  s.rows = {int(r.pad), int(r.in), int(r.out)};
  s.columns = {int(k.pad), int(k.in), int(k.out)};
  s.channels = FastDivide(c.channels);
  s.taps = int(r.taps);
  s.filter = c.filter;
  if (c.granule == 1 && c.pixel_stride == 1) {
    run_strips<Stored, Of::kPlane>(c, s, stream);
    return true;
  }
  if ((c.granule | c.pixel_stride | c.row_stride | c.image_stride) % kChannels == 0 &&
      aligned_for_packs(c.x, c.y)) {
    run_strips<Stored, Of::kPack>(c, s, stream);
    return true;
  }
  if (s.taps != 4) return false;  // not worth a kernel: the images of generators have four
  run_strips<Stored, Of::kOne>(c, s, stream);
  return true;
}

}  // namespace

void upfirdn2d_cuda(const Upfirdn2d& c, Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    if constexpr (sizeof(Stored) < 8) {  // float64 is for checks: not worth twelve more kernels
      if (strips<Stored>(c, stream)) return;
    }
    windows<Stored>(c, stream);
  });
}

}  // namespace sdd
