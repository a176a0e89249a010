// bias_act on the GPU, forward and backward. Formulas: bias_act.h.
//
// Memory is all it costs: every thread reads a few packs of 16 bytes before it writes any, the
// arithmetic is hidden behind that. Where the gradient of the bias is wanted, it comes out of the
// same pass: a warp sums a piece of one channel (channels outside), or a thread sums a few pixels
// of neighboring channels (channels inside); channel_sums() adds the parts in a fixed order.
#include "../common/device_sums.h"
#include "../common/fast_divide.h"
#include "bias_act_kernel.h"

namespace sdd {
namespace {

constexpr int kThreads = 256;
template <class Stored, bool kBackward>
constexpr int kUnroll = sizeof(Stored) == 8 || kBackward ? 2 : 4;  // packs a thread has in flight
constexpr int kRowPiece = 4096;  // elements of one channel that a warp sums
constexpr int kColumns = 8;      // packs of channels side by side in a block
constexpr int kPixelTile = 512;  // pixels that a block sums
constexpr int64_t kMaxPeriod = (int64_t{1} << 31) - 65536;  // for the 32-bit index of a channel

template <class Stored>
AnyAct<Compute<Stored>> act_of(const BiasAct& c) {
  return {c.activation, as_stored<Stored>(c.activation.limit)};
}

// Which bias belongs to the elements of a pack.
enum class Bias { kNone, kOne, kNeighbors };

// x: [numel], bias: [channels] -> out: [numel]; backward: x is the incoming gradient, y the result
// of the forward pass
template <class Stored, int N, Bias kBias, bool kBackward>
__global__ void __launch_bounds__(kThreads)
    bias_act_kernel(const Stored* __restrict__ x, const Stored* __restrict__ y,
                    const Stored* __restrict__ bias, Stored* __restrict__ out, int64_t numel,
                    int64_t period, FastDivide inner, FastDivide channels,
                    AnyAct<Compute<Stored>> act) {
  constexpr int tile = kThreads * kUnroll<Stored, kBackward> * N;
  const int64_t start = blockIdx.x * int64_t(tile);
  // Where the tile starts in a period of channels * inner elements, or in the whole if that is
  // short enough for 32 bits: then without a division.
  const uint32_t phase = uint32_t(numel >> 31 ? start % period : start);
  const auto result_of = [&](Stored value, Stored reached, Stored b) {
    if constexpr (kBackward) {
      const auto r = widened(reached);
      return narrowed<Stored>(act.gradient(widened(value), r, r));
    }
    return narrowed<Stored>(act.activated(widened(value) + widened(b)));
  };
  const auto bias_at = [&](uint32_t i) { return bias[channels.remainder(inner.quotient(i))]; };

  Pack<Stored, N> from[kUnroll<Stored, kBackward>], reached[kUnroll<Stored, kBackward>];
#pragma unroll
  for (int k = 0; k < kUnroll<Stored, kBackward>; ++k) {
    const int64_t i = start + (k * kThreads + int(threadIdx.x)) * N;
    if (i + N > numel) continue;
    from[k] = load_pack<N>(x + i);
    reached[k] = from[k];
    if constexpr (kBackward) reached[k] = load_pack<N>(y + i);
  }
#pragma unroll
  for (int k = 0; k < kUnroll<Stored, kBackward>; ++k) {
    const uint32_t offset = (k * kThreads + threadIdx.x) * N;
    const int64_t i = start + offset;
    if (i + N <= numel) {
      Pack<Stored, N> b{};
      if constexpr (kBias == Bias::kOne) b[0] = bias_at(phase + offset);
      if constexpr (kBias == Bias::kNeighbors) {
        b = load_pack<N>(bias + channels.remainder(phase + offset));
      }
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if constexpr (kBias == Bias::kOne) b[j] = b[0];
        from[k][j] = result_of(from[k][j], reached[k][j], b[j]);
      }
      store_pack(out + i, from[k]);
    } else if constexpr (kBias == Bias::kNone) {
      // The end of the tensor; with the other kinds, packs divide it.
      for (int j = 0; i + j < numel; ++j) {
        out[i + j] = result_of(x[i + j], kBackward ? y[i + j] : x[i + j], Stored{});
      }
    }
  }
}

template <class Stored, int N, Bias kBias, bool kBackward>
void pointwise(const BiasAct& c, Stream stream) {
  constexpr int64_t tile = int64_t{kThreads} * kUnroll<Stored, kBackward> * N;
  const auto* y = static_cast<const Stored*>(c.y);
  const auto* bias = static_cast<const Stored*>(c.bias);
  const auto run = [&](int64_t from, int64_t numel, int64_t channel, int64_t channels,
                       int64_t inner) {
    launch("bias_act", bias_act_kernel<Stored, N, kBias, kBackward>,
           dim3(unsigned(divide_up(numel, tile))), kThreads, stream,
           static_cast<const Stored*>(c.x) + from, kBackward ? y + from : nullptr,
           kBias == Bias::kNone ? nullptr : bias + channel, static_cast<Stored*>(c.out) + from,
           numel, channels * inner, FastDivide(inner), FastDivide(channels), act_of<Stored>(c));
  };
  if (kBias == Bias::kNone) return run(0, c.outer * c.channels * c.inner, 0, 1, 1);
  if (c.channels * c.inner < kMaxPeriod) {
    return run(0, c.outer * c.channels * c.inner, 0, c.channels, c.inner);
  }
  for (int64_t row = 0; row < c.outer * c.channels; ++row) {  // of a billion elements or so
    run(row * c.inner, c.inner, row % c.channels, 1, 1);
  }
}

template <class Stored>
void forward(const BiasAct& c, Stream stream) {
  constexpr int N = kPack<Stored>;
  const bool packs = aligned_for_packs(c.x, c.out);
  if (c.bias == nullptr) {
    return packs ? pointwise<Stored, N, Bias::kNone, false>(c, stream)
                 : pointwise<Stored, 1, Bias::kNone, false>(c, stream);
  }
  if (packs && c.inner % N == 0) return pointwise<Stored, N, Bias::kOne, false>(c, stream);
  if (packs && c.inner == 1 && c.channels % N == 0 && aligned_for_packs(c.bias)) {
    return pointwise<Stored, N, Bias::kNeighbors, false>(c, stream);
  }
  pointwise<Stored, 1, Bias::kOne, false>(c, stream);
}

// grad, y: [rows, inner] -> out: [rows, inner], parts: [rows, pieces], a warp for each piece
template <class Stored, int N>
__global__ void __launch_bounds__(kThreads)
    bias_act_backward_rows(const Stored* __restrict__ grad, const Stored* __restrict__ y,
                           Stored* __restrict__ out, double* __restrict__ parts, int64_t rows,
                           int64_t inner, int64_t pieces, AnyAct<Compute<Stored>> act) {
  const int64_t warp = blockIdx.x * int64_t(kThreads / kWarp) + threadIdx.x / kWarp;
  if (warp >= rows * pieces) return;
  const int64_t row = warp / pieces, first = warp % pieces * kRowPiece;
  const int64_t start = row * inner + first;
  const int count = int(inner - first < kRowPiece ? inner - first : kRowPiece);
  double total = 0;
#pragma unroll 4
  for (int i = int(threadIdx.x % kWarp) * N; i < count; i += kWarp * N) {
    auto g = load_pack<N>(grad + start + i);
    const auto r = load_pack<N>(y + start + i);
    Compute<Stored> sum = 0;  // few elements: many of them take a double
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const auto reached = widened(r[j]);
      const auto h = act.gradient(widened(g[j]), reached, reached);
      sum += h;
      g[j] = narrowed<Stored>(h);
    }
    store_pack(out + start + i, g);
    total += double(sum);
  }
  total = warp_sum(total);
  if (threadIdx.x % kWarp == 0) parts[warp] = total;
}

// grad, y: [pixels, channels] -> out: [pixels, channels], parts: [tiles, channels]. A block has
// kColumns threads for as many packs of channels, and kThreads / kColumns pixels at a time. Blocks
// of the same tile, `groups` of them, follow one another: they share its lines of memory. Both are
// counted by blockIdx.x, as a grid has only 65535 places in y.
template <class Stored, int N>
__global__ void __launch_bounds__(kThreads)
    bias_act_backward_columns(const Stored* __restrict__ grad, const Stored* __restrict__ y,
                              Stored* __restrict__ out, double* __restrict__ parts, int64_t pixels,
                              int64_t channels, FastDivide groups, AnyAct<Compute<Stored>> act) {
  using C = Compute<Stored>;
  constexpr int lines = kThreads / kColumns;
  __shared__ C sums[lines][kColumns * N];
  const int column = threadIdx.x % kColumns, line = threadIdx.x / kColumns;
  const int64_t tile = groups.quotient(blockIdx.x);
  const int64_t first = int64_t(groups.remainder(blockIdx.x)) * (kColumns * N);
  const int64_t channel = first + column * N;
  C sum[N] = {};
  if (channel < channels) {
    const int64_t begin = tile * kPixelTile;
#pragma unroll 4
    for (int64_t p = begin + line; p < begin + kPixelTile; p += lines) {
      if (p >= pixels) break;
      auto g = load_pack<N>(grad + p * channels + channel);
      const auto r = load_pack<N>(y + p * channels + channel);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const C reached = widened(r[j]);
        const C h = act.gradient(widened(g[j]), reached, reached);
        sum[j] += h;
        g[j] = narrowed<Stored>(h);
      }
      store_at_once(out + p * channels + channel, g);
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) sums[line][column * N + j] = sum[j];
  __syncthreads();
  for (int i = threadIdx.x; i < kColumns * N && first + i < channels; i += kThreads) {
    double total = 0;
    for (int l = 0; l < lines; ++l) total += double(sums[l][i]);
    parts[tile * channels + first + i] = total;
  }
}

template <class Stored, int N>
void backward_with_sums(const BiasAct& c, Stream stream) {
  const auto* grad = static_cast<const Stored*>(c.x);
  const auto* y = static_cast<const Stored*>(c.y);
  auto* out = static_cast<Stored*>(c.out);
  auto* bias_grad = static_cast<Stored*>(c.bias_grad);
  if (c.inner == 1) {
    const int64_t tiles = divide_up(c.outer, kPixelTile);
    const int64_t groups = divide_up(c.channels, kColumns * N);
    launch("bias_act_backward", bias_act_backward_columns<Stored, N>,
           dim3(unsigned(tiles * groups)), kThreads, stream, grad, y, out, c.workspace, c.outer,
           c.channels, FastDivide(groups), act_of<Stored>(c));
    return channel_sums(c.workspace, bias_grad, 1, tiles, c.channels, 1, stream);
  }
  const int64_t pieces = divide_up(c.inner, kRowPiece), rows = c.outer * c.channels;
  launch("bias_act_backward", bias_act_backward_rows<Stored, N>,
         dim3(unsigned(divide_up(rows * pieces, kThreads / kWarp))), kThreads, stream, grad, y, out,
         c.workspace, rows, c.inner, pieces, act_of<Stored>(c));
  channel_sums(c.workspace, bias_grad, 1, c.outer, c.channels, pieces, stream);
}

template <class Stored>
void backward(const BiasAct& c, Stream stream) {
  constexpr int N = kPack<Stored>;
  const bool packs = aligned_for_packs(c.x, c.y, c.out);
  if (c.bias_grad == nullptr) {
    return packs ? pointwise<Stored, N, Bias::kNone, true>(c, stream)
                 : pointwise<Stored, 1, Bias::kNone, true>(c, stream);
  }
  const int64_t row = c.inner == 1 ? c.channels : c.inner;
  return packs && row % N == 0 ? backward_with_sums<Stored, N>(c, stream)
                               : backward_with_sums<Stored, 1>(c, stream);
}

}  // namespace

int64_t bias_act_workspace(int64_t outer, int64_t channels, int64_t inner) {
  return inner == 1 ? divide_up(outer, kPixelTile) * channels
                    : outer * channels * divide_up(inner, kRowPiece);
}

void bias_act_cuda(const BiasAct& c, Stream stream) {
  with_element(c.element, [&](auto zero) {
    using Stored = decltype(zero);
    return c.y == nullptr ? forward<Stored>(c, stream) : backward<Stored>(c, stream);
  });
}

}  // namespace sdd
