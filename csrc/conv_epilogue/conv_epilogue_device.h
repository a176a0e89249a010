// Factor, noise and bias as the CUDA kernels read them, and what the backward pass makes of a pack.
//
// The maps of a sample are a matrix [lines, inner] in the order of memory. kLast: channels are
// inside, so that a line is a pixel; else a line is a channel.
#pragma once

#include "../common/device_elements.h"
#include "conv_epilogue.h"

namespace sdd {
namespace {

// Of N neighbors along a line.
template <class Stored, int N>
struct Along {
  Compute<Stored> factor[N];  // with channels inside
  Pack<Stored, N> shift;
};

// Of a line.
template <class C>
struct Across {
  C factor;  // with channels outside
  C shift;
};

// factor, noise and bias; nullptr: 1, 0 and 0.
template <class Stored, bool kLast>
struct Terms {
  using C = Compute<Stored>;
  const Stored* factor;
  const float* wide_factor;
  const Stored* noise;
  const Stored* bias;
  int64_t noise_stride;

  __device__ __forceinline__ Terms of_sample(int64_t sample, int64_t channels) const {
    Terms t = *this;
    if (factor != nullptr) t.factor += sample * channels;
    if (wide_factor != nullptr) t.wide_factor += sample * channels;
    if (noise != nullptr) t.noise += sample * noise_stride;
    return t;
  }

  template <int N>
  __device__ __forceinline__ void read_factor(int64_t i, C (&to)[N]) const {
    if (wide_factor != nullptr) {
      constexpr int n = N < 4 ? 1 : 4;  // 16 bytes
#pragma unroll
      for (int first = 0; first < N; first += n) {
        const auto pack = load_pack<n>(wide_factor + i + first);
#pragma unroll
        for (int j = 0; j < n; ++j) to[first + j] = C(pack[j]);
      }
      return;
    }
    const Pack<Stored, N> pack = read<N>(factor, i);
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = factor == nullptr ? C(1) : widened(pack[j]);
  }
  template <int N>
  __device__ __forceinline__ static Pack<Stored, N> read(const Stored* from, int64_t i) {
    return from == nullptr ? Pack<Stored, N>{} : load_pack<N>(from + i);
  }

  template <int N>
  __device__ __forceinline__ Along<Stored, N> along(int64_t i) const {
    Along<Stored, N> a{};
    if constexpr (kLast) read_factor(i, a.factor);
    a.shift = read<N>(kLast ? bias : noise, i);
    return a;
  }
  __device__ __forceinline__ Across<C> across(int64_t line) const {
    C f[1] = {};
    if constexpr (!kLast) read_factor(line, f);
    return {f[0], widened(read<1>(kLast ? noise : bias, line)[0])};
  }
  template <int N>
  __device__ __forceinline__ static C factor_of(const Along<Stored, N>& a, const Across<C>& b,
                                                int j) {
    if constexpr (kLast) {
      return a.factor[j];
    } else {
      return b.factor;
    }
  }
};

// h of (2) in conv_epilogue.h: [N]; the gradient of x is written to out, unless that is nullptr.
template <class Stored, int N, bool kLast>
__device__ __forceinline__ void backward_pack(const Pack<Stored, N>& x, const Pack<Stored, N>& grad,
                                              const Along<Stored, N>& along,
                                              const Across<Compute<Stored>>& across,
                                              const AnyAct<Compute<Stored>>& act, Stored* out,
                                              Compute<Stored> (&h)[N]) {
  using C = Compute<Stored>;
  Pack<Stored, N> to;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const C factor = Terms<Stored, kLast>::factor_of(along, across, j);
    const C u = preactivation(widened(x[j]), factor, widened(along.shift[j]) + across.shift);
    h[j] = act.gradient(widened(grad[j]), u, gained_act<Act::kLrelu>(u, act.params));
    to[j] = narrowed<Stored>(h[j] * factor);
  }
  if (out != nullptr) store_at_once(out, to);
}

}  // namespace
}  // namespace sdd
