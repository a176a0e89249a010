// conv_epilogue on the GPU, forward and backward. Formulas: conv_epilogue.h.
//
// The maps of a sample are a matrix [lines, inner] in the order of memory: with channels outside a
// line is a channel and the pixels are inside, with channels inside a line is a pixel. Factor and
// bias belong to the lines and noise to the places along them, or the other way round: so the same
// three kernels serve both layouts. They cost what the memory traffic costs: every thread reads a
// few packs of 16 bytes before it writes any.
//
// Backward, the gradients of factor and bias come out of the pass that makes the gradient of x, as
// sums over lines (epilogue_rows) or across them (epilogue_columns). The gradient of the noise is a
// sum in the other direction and takes a pass of its own. channel_sums() adds what blocks leave in
// `parts`, in a fixed order.
#include <algorithm>
#include <type_traits>

#include "../common/device_sums.h"
#include "../common/fast_divide.h"
#include "conv_epilogue_device.h"
#include "conv_epilogue_kernel.h"

namespace sdd {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // packs a thread has in flight, forward
// Backward a pack is of 4 elements at most, as every element of it takes several registers.
template <class Stored>
constexpr int kBackwardPack = std::min(4, kPack<Stored>);
// The packs of x, and as many of the gradient, that a thread has in flight.
template <class Stored, int N>
constexpr int kPairs = std::min(4, 2 * kPackBytes / int(N * sizeof(Stored)));
// Threads side by side in a block of epilogue_columns: on 128 bytes, unless the lines are shorter.
template <class Stored, int N>
constexpr int kMostColumns = N == 1 ? 8 : 128 / int(N * sizeof(Stored));
constexpr int kLeastColumns = 8;
constexpr int kMostLines = kThreads / kLeastColumns;          // of such a block at a time
constexpr int64_t kMaxGrid = 65535;                           // in y and z
constexpr int64_t kMaxElements = (int64_t{1} << 31) - 65536;  // for 32-bit indices
constexpr int64_t kEnoughThreads = 1 << 17;

// x -> out: [samples, lines, inner], of which this launch takes `lines` lines from first_line on,
// and of them `packs` packs from first_inner on. A thread takes the same pack of up to kUnroll
// lines, `groups` lines apart: what belongs to the places along a line is read once.
template <class Stored, int N, bool kLast>
__global__ void __launch_bounds__(kThreads, 3)
    epilogue_forward(const Stored* __restrict__ x, Stored* __restrict__ out,
                     Terms<Stored, kLast> all_terms, int64_t channels, int64_t stride,
                     int64_t first_sample, int64_t first_line, int64_t first_inner, uint32_t lines,
                     uint32_t groups, FastDivide packs, AnyAct<Compute<Stored>> act) {
  using C = Compute<Stored>;
  const uint32_t pack = blockIdx.x * kThreads + threadIdx.x;
  if (pack >= groups * packs.divisor) return;
  const uint32_t line = packs.quotient(pack);
  const int64_t sample = first_sample + blockIdx.y;
  const int64_t at = sample * stride + int64_t(pack) * N;
  const int64_t step = int64_t(groups) * packs.divisor * N;
  const auto terms = all_terms.of_sample(sample, channels);

  Pack<Stored, N> elements[kUnroll];
  Across<C> across[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    if (line + k * groups >= lines) continue;
    elements[k] = load_pack<N>(x + at + k * step);
    across[k] = terms.across(first_line + line + k * groups);
  }
  const auto along =
      terms.template along<N>(first_inner + int64_t(pack - line * packs.divisor) * N);
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    if (line + k * groups >= lines) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const C u = preactivation(widened(elements[k][j]), terms.factor_of(along, across[k], j),
                                widened(along.shift[j]) + across[k].shift);
      elements[k][j] = narrowed<Stored>(act.activated(u));
    }
    store_at_once(out + at + k * step, elements[k]);
  }
}

// x, grad -> out: [samples, lines, inner], sums of h * x and of h: [samples, lines, pieces].
// `width` lanes of a warp, a power of two, take `piece` elements of a line; any of the three may be
// nullptr.
template <class Stored, int N, bool kLast>
__global__ void __launch_bounds__(kThreads, 2)
    epilogue_rows(const Stored* __restrict__ x, const Stored* __restrict__ grad,
                  Stored* __restrict__ out, double* __restrict__ hx_parts,
                  double* __restrict__ h_parts, Terms<Stored, kLast> all_terms, int64_t lines,
                  int64_t inner, int64_t first_sample, int64_t piece, int width,
                  AnyAct<Compute<Stored>> act) {
  using C = Compute<Stored>;
  constexpr int unroll = kLast ? 2 : kPairs<Stored, N>;  // factor and bias take registers too
  const int64_t sample = first_sample + blockIdx.z;
  const int64_t line = blockIdx.x * int64_t(kThreads / width) + threadIdx.x / width;
  const int lane = threadIdx.x % width;
  double h_total = 0, hx_total = 0;
  if (line < lines) {
    const auto terms = all_terms.of_sample(sample, kLast ? inner : lines);
    const auto across = terms.across(line);
    const int64_t start = (sample * lines + line) * inner;
    const int64_t first = blockIdx.y * piece;
    const int64_t end = inner - first < piece ? inner : first + piece;
    const int step = width * N;
    for (int64_t i = first + lane * N; i < end; i += unroll * step) {
      Pack<Stored, N> from[unroll], g[unroll];
      Along<Stored, N> along[unroll];
      C h_sum = 0, hx_sum = 0;  // of few elements: of many it takes a double
#pragma unroll
      for (int k = 0; k < unroll; ++k) {
        if (i + k * step >= end) continue;
        from[k] = load_pack<N>(x + start + i + k * step);
        g[k] = load_pack<N>(grad + start + i + k * step);
        along[k] = terms.template along<N>(i + k * step);
      }
#pragma unroll
      for (int k = 0; k < unroll; ++k) {
        if (i + k * step >= end) continue;
        C h[N];
        Stored* to = out == nullptr ? nullptr : out + start + i + k * step;
        backward_pack<Stored, N, kLast>(from[k], g[k], along[k], across, act, to, h);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          h_sum += h[j];
          hx_sum += h[j] * widened(from[k][j]);
        }
      }
      h_total += double(h_sum);
      hx_total += double(hx_sum);
    }
  }
  const int64_t slot = ((sample * lines + line) * gridDim.y) + blockIdx.y;
  const auto leave = [&](double* parts, double total) {
    if (parts == nullptr) return;
    for (int distance = width / 2; distance > 0; distance /= 2) {
      total += __shfl_xor_sync(kAllLanes, total, distance);
    }
    if (line < lines && lane == 0) parts[slot] = total;
  };
  leave(h_parts, h_total);
  leave(hx_parts, hx_total);
}

// x, grad -> out: [samples, lines, inner], sums of h * x and of h: [samples, tiles, inner]. A block
// takes `columns` packs, a power of two, of `tile` lines; any of the three may be nullptr.
template <class Stored, int N, bool kLast>
__global__ void __launch_bounds__(kThreads, 2)
    epilogue_columns(const Stored* __restrict__ x, const Stored* __restrict__ grad,
                     Stored* __restrict__ out, double* __restrict__ hx_parts,
                     double* __restrict__ h_parts, Terms<Stored, kLast> all_terms, int64_t lines,
                     int64_t inner, int64_t first_sample, int64_t tile, int columns,
                     AnyAct<Compute<Stored>> act) {
  using C = Compute<Stored>;
  constexpr int unroll = kPairs<Stored, N>;
  const int lines_at_once = kThreads / columns;
  __shared__ C sums[2][N][kThreads];
  const int64_t sample = first_sample + blockIdx.z;
  const int column = threadIdx.x % columns, row = threadIdx.x / columns;
  const int64_t i = (blockIdx.x * int64_t(columns) + column) * N;
  C h_sum[N] = {}, hx_sum[N] = {};
  if (i < inner) {
    const auto terms = all_terms.of_sample(sample, kLast ? inner : lines);
    const auto along = terms.template along<N>(i);
    const int64_t start = sample * lines * inner + i;
    const int64_t first = blockIdx.y * tile;
    const int64_t end = lines - first < tile ? lines : first + tile;
    for (int64_t line = first + row; line < end; line += unroll * lines_at_once) {
      Pack<Stored, N> from[unroll], g[unroll];
      Across<C> across[unroll];
#pragma unroll
      for (int k = 0; k < unroll; ++k) {
        if (line + k * lines_at_once >= end) continue;
        from[k] = load_pack<N>(x + start + (line + k * lines_at_once) * inner);
        g[k] = load_pack<N>(grad + start + (line + k * lines_at_once) * inner);
        across[k] = terms.across(line + k * lines_at_once);
      }
#pragma unroll
      for (int k = 0; k < unroll; ++k) {
        if (line + k * lines_at_once >= end) continue;
        C h[N];
        Stored* to = out == nullptr ? nullptr : out + start + (line + k * lines_at_once) * inner;
        backward_pack<Stored, N, kLast>(from[k], g[k], along, across[k], act, to, h);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          h_sum[j] += h[j];
          hx_sum[j] += h[j] * widened(from[k][j]);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
    sums[0][j][threadIdx.x] = h_sum[j];
    sums[1][j][threadIdx.x] = hx_sum[j];
  }
  __syncthreads();
  for (int k = threadIdx.x; k < 2 * N * columns; k += kThreads) {
    const int of = k / (N * columns), j = k / columns % N, c = k % columns;
    const int64_t place = (blockIdx.x * int64_t(columns) + c) * N + j;
    double* parts = of == 0 ? h_parts : hx_parts;
    if (parts == nullptr || place >= inner) continue;
    double total = 0;
    for (int l = 0; l < lines_at_once; ++l) total += double(sums[of][j][l * columns + c]);
    parts[(sample * gridDim.y + blockIdx.y) * inner + place] = total;
  }
}

int64_t lines_of(const Epilogue& c) { return c.channels_last ? c.pixels : c.channels; }
int64_t inner_of(const Epilogue& c) { return c.channels_last ? c.channels : c.pixels; }

int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Elements of a line that a warp or less sums: fewer where there are not many, so that all of the
// GPU has work, and more where pieces would be too many for a grid.
int64_t row_piece(const Epilogue& c) {
  const int64_t numel = c.samples * c.channels * c.pixels;
  const int64_t piece = std::clamp<int64_t>(round_up(numel >> 12, 1024), 1024, 4096);
  return std::max(piece, round_up(divide_up(inner_of(c), kMaxGrid), 1024));
}

// Lines that a block sums, likewise.
int64_t column_tile(const Epilogue& c) {
  const int64_t numel = c.samples * c.channels * c.pixels;
  const int64_t tile = std::clamp<int64_t>(round_up(numel >> 14, kMostLines), kMostLines, 512);
  return std::max(tile, round_up(divide_up(lines_of(c), kMaxGrid), kMostLines));
}

// What is left of sums in one direction: [samples, outer, elements, inner].
struct Parts {
  int64_t samples, outer, elements, inner;

  int64_t size() const { return samples * outer * elements * inner; }

  template <class Stored>
  void add_up(const double* parts, void* out, bool over_samples, Stream stream) const {
    channel_sums(parts, static_cast<Stored*>(out), over_samples ? 1 : samples,
                 over_samples ? samples * outer : outer, elements, inner, stream);
  }
};

Parts row_parts(const Epilogue& c) {
  return {c.samples, 1, lines_of(c), divide_up(inner_of(c), row_piece(c))};
}

Parts column_parts(const Epilogue& c) {
  return {c.samples, divide_up(lines_of(c), column_tile(c)), inner_of(c), 1};
}

Parts parts_of_channels(const Epilogue& c) {
  return c.channels_last ? column_parts(c) : row_parts(c);
}

Parts parts_of_noise(const Epilogue& c) { return c.channels_last ? row_parts(c) : column_parts(c); }

template <class Stored, bool kLast>
Terms<Stored, kLast> terms_of(const Epilogue& c) {
  const bool wide = c.factor_element != c.element;
  return {wide ? nullptr : static_cast<const Stored*>(c.factor),
          wide ? static_cast<const float*>(c.factor) : nullptr, static_cast<const Stored*>(c.noise),
          static_cast<const Stored*>(c.bias), c.noise_stride};
}

template <class Stored>
AnyAct<Compute<Stored>> act_of(const Epilogue& c) {
  return {c.activation, as_stored<Stored>(c.activation.limit)};
}

// body(first, count) for all samples, as many at a time as a grid takes.
template <class Body>
void for_samples(const Epilogue& c, const Body& body) {
  for (int64_t first = 0; first < c.samples; first += kMaxGrid) {
    body(first, unsigned(std::min(kMaxGrid, c.samples - first)));
  }
}

template <class Stored, int N, bool kLast>
void forward(const Epilogue& c, Stream stream) {
  const int64_t inner = inner_of(c);
  const int64_t per_thread =
      std::clamp<int64_t>(c.samples * lines_of(c) * inner / N / kEnoughThreads, 1, kUnroll);
  // All of a sample, unless that is billions of elements: then as many lines, or as much of one, as
  // 32-bit indices allow.
  const int64_t length = std::min(inner, kMaxElements), count = kMaxElements / length;
  for (int64_t line = 0; line < lines_of(c); line += count) {
    const int64_t lines = std::min(count, lines_of(c) - line);
    const int64_t groups = divide_up(lines, per_thread);
    for (int64_t i = 0; i < inner; i += length) {
      const int64_t packs = std::min(length, inner - i) / N, start = line * inner + i;
      for_samples(c, [&](int64_t first, unsigned samples) {
        launch("conv_epilogue", epilogue_forward<Stored, N, kLast>,
               dim3(unsigned(divide_up(groups * packs, kThreads)), samples), kThreads, stream,
               static_cast<const Stored*>(c.x) + start, static_cast<Stored*>(c.out) + start,
               terms_of<Stored, kLast>(c), c.channels, lines_of(c) * inner, first, line, i,
               uint32_t(lines), uint32_t(groups), FastDivide(packs), act_of<Stored>(c));
      });
    }
  }
}

template <class Stored, int N, bool kLast>
void sum_rows(const Epilogue& c, void* out, double* hx, double* h, Stream stream) {
  const int64_t lines = lines_of(c), inner = inner_of(c), piece = row_piece(c);
  // A few packs for each lane, and whole sectors of memory for them together.
  const int64_t packs = divide_up(std::min(inner, piece), N);
  const int64_t sectors = std::min<int64_t>(packs, 64 / (N * sizeof(Stored)));
  const int64_t wanted = std::max(divide_up(packs, kUnroll), sectors);
  int width = 1;
  while (width < kWarp && width < wanted) width *= 2;
  for_samples(c, [&](int64_t first, unsigned samples) {
    launch(
        "conv_epilogue_backward", epilogue_rows<Stored, N, kLast>,
        dim3(unsigned(divide_up(lines, kThreads / width)), unsigned(row_parts(c).inner), samples),
        kThreads, stream, static_cast<const Stored*>(c.x), static_cast<const Stored*>(c.grad),
        static_cast<Stored*>(out), hx, h, terms_of<Stored, kLast>(c), lines, inner, first, piece,
        width, act_of<Stored>(c));
  });
}

template <class Stored, int N, bool kLast>
void sum_columns(const Epilogue& c, void* out, double* hx, double* h, Stream stream) {
  const int64_t lines = lines_of(c), inner = inner_of(c);
  int columns = kMostColumns<Stored, N>;
  while (columns > kLeastColumns && columns / 2 * N >= inner) columns /= 2;
  for_samples(c, [&](int64_t first, unsigned samples) {
    const dim3 grid(unsigned(divide_up(inner, columns * N)), unsigned(column_parts(c).outer),
                    samples);
    launch("conv_epilogue_backward", epilogue_columns<Stored, N, kLast>, grid, kThreads, stream,
           static_cast<const Stored*>(c.x), static_cast<const Stored*>(c.grad),
           static_cast<Stored*>(out), hx, h, terms_of<Stored, kLast>(c), lines, inner, first,
           column_tile(c), columns, act_of<Stored>(c));
  });
}

template <class Stored, int N, bool kLast>
void backward(const Epilogue& c, Stream stream) {
  double* next = c.workspace;
  const auto workspace_for = [&](const void* gradient, const Parts& parts) {
    double* workspace = gradient == nullptr ? nullptr : next;
    if (workspace != nullptr) next += parts.size();
    return workspace;
  };
  const Parts of_channels = parts_of_channels(c), of_noise = parts_of_noise(c);
  double* hx = workspace_for(c.factor_grad, of_channels);
  double* h = workspace_for(c.bias_grad, of_channels);
  double* noise = workspace_for(c.noise_grad, of_noise);
  if constexpr (kLast) {
    sum_columns<Stored, N, kLast>(c, c.out, hx, h, stream);
    if (noise != nullptr) sum_rows<Stored, N, kLast>(c, nullptr, nullptr, noise, stream);
  } else {
    sum_rows<Stored, N, kLast>(c, c.out, hx, h, stream);
    if (noise != nullptr) sum_columns<Stored, N, kLast>(c, nullptr, nullptr, noise, stream);
  }
  if (hx != nullptr && c.factor_element != c.element) {
    of_channels.add_up<float>(hx, c.factor_grad, false, stream);
  } else if (hx != nullptr) {
    of_channels.add_up<Stored>(hx, c.factor_grad, false, stream);
  }
  if (h != nullptr) of_channels.add_up<Stored>(h, c.bias_grad, true, stream);
  if (noise != nullptr) {
    of_noise.add_up<Stored>(noise, c.noise_grad, c.noise_stride == 0, stream);
  }
}

// body(number of neighbors, whether channels are inside): whole packs where the lines divide into
// them and everything along them is aligned.
template <int N, class Body>
void with_layout(const Epilogue& c, const Body& body) {
  bool packs = inner_of(c) % N == 0 && aligned_for_packs(c.x, c.grad, c.out);
  using std::integral_constant;
  if (c.channels_last) {
    packs = packs && aligned_for_packs(c.factor, c.bias);
    packs ? body(integral_constant<int, N>{}, std::true_type{})
          : body(integral_constant<int, 1>{}, std::true_type{});
  } else {
    packs = packs && aligned_for_packs(c.noise);
    packs ? body(integral_constant<int, N>{}, std::false_type{})
          : body(integral_constant<int, 1>{}, std::false_type{});
  }
}

}  // namespace

int64_t conv_epilogue_workspace(const Epilogue& c) {
  const int64_t sums = (c.factor_grad != nullptr) + (c.bias_grad != nullptr);
  return sums * parts_of_channels(c).size() +
         (c.noise_grad != nullptr ? parts_of_noise(c).size() : 0);
}

void conv_epilogue_cuda(const Epilogue& c, Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    if (c.grad == nullptr) {
      with_layout<kPack<Stored>>(
          c, [&](auto n, auto channels_last) { forward<Stored, n(), channels_last()>(c, stream); });
    } else {
      with_layout<kBackwardPack<Stored>>(c, [&](auto n, auto channels_last) {
        backward<Stored, n(), channels_last()>(c, stream);
      });
    }
  });
}

}  // namespace sdd
