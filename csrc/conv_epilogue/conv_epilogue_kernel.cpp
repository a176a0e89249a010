// conv_epilogue, forward and backward in one pass each, on CPU vectors of the width of this
// instruction set (SDD_ISA names the copy). Formulas: conv_epilogue.h.
#include "conv_epilogue_kernel.h"

#include "../common/elements.h"

namespace sdd {
namespace {

template <class E, Act kAct>
struct Kernel {
  using S = typename E::Compute;
  using Stored = typename E::Stored;

  const EpilogueTasks& t;
  const Epilogue& c = t.of;
  const ActParams<S> params{c.activation, as_stored<E>(c.activation.limit)};
  const Stored* x = static_cast<const Stored*>(c.x);
  const Stored* grad = static_cast<const Stored*>(c.grad);
  const S* factor = static_cast<const S*>(t.factor);
  const Stored* noise = static_cast<const Stored*>(c.noise);
  const S* bias = static_cast<const S*>(t.bias);
  Stored* out = static_cast<Stored*>(c.out);
  S* noise_sums = static_cast<S*>(t.noise_sums);

  // h of (2) in conv_epilogue.h, for the element at `at`.
  template <class Lane>
  SDD_FN typename Lane::T h_of(Lane, int64_t at, typename Lane::T x_value, typename Lane::T factor,
                               typename Lane::T shift) const {
    const typename Lane::T u = preactivation(x_value, factor, shift);
    return bias_act_gradient<kAct>(Lane::read(grad + at), u, gained_act<kAct>(u, params), params);
  }

  SDD_FN const Stored* noise_of(int64_t sample) const {
    return noise == nullptr ? nullptr : noise + sample * c.noise_stride;
  }

  void forward_row(int64_t sample, int64_t o, int64_t first, int64_t n) const {
    const S f = factor[sample * c.channels + o], b = bias[o];
    const int64_t at = epilogue_offset(t, sample, o, first);
    if (noise == nullptr) {
      for_each_lane<E>(n, [&](auto lane, int64_t i) {
        using T = typename decltype(lane)::T;
        const T u = preactivation(lane.read(x + at + i), T{} + f, T{} + b);
        E::put(out + at + i, activated<kAct>(u, params));
      });
    } else {
      const Stored* row_noise = noise_of(sample) + first;
      for_each_lane<E>(n, [&](auto lane, int64_t i) {
        using T = typename decltype(lane)::T;
        const T u = preactivation(lane.read(x + at + i), T{} + f, T(lane.read(row_noise + i) + b));
        E::put(out + at + i, activated<kAct>(u, params));
      });
    }
  }

  void forward_channels_last(int64_t sample, int64_t first, int64_t n) const {
    const Stored* sample_noise = noise_of(sample);
    const S* f = factor + sample * c.channels;
    const S* b = bias;
    for (int64_t pixel = first; pixel < first + n; ++pixel) {
      const S shift = sample_noise == nullptr ? S(0) : E::value(sample_noise + pixel);
      const Stored* from = x + epilogue_offset(t, sample, 0, pixel);
      Stored* to = out + epilogue_offset(t, sample, 0, pixel);
      for_each_lane<E>(c.channels, [&](auto lane, int64_t o) {
        using T = typename decltype(lane)::T;
        const T u = preactivation(lane.read(from + o), lane.read_wide(f + o),
                                  T(lane.read_wide(b + o) + shift));
        E::put(to + o, activated<kAct>(u, params));
      });
    }
  }

  // slot: where the sums go. noise_out: [pixels] of this sample; sums over rows are added up there.
  void backward_row(int64_t sample, int64_t o, int64_t first, int64_t n, int64_t slot,
                    S* noise_out) const {
    const Stored* sample_noise = noise_of(sample);
    const S f = factor[sample * c.channels + o], b = bias[o];
    const int64_t at = epilogue_offset(t, sample, o, first);
    double h_total = 0, hx_total = 0;
    // Summed in the precision of S over a tile, in float64 over tiles.
    for (int64_t tile = 0; tile < n; tile += kEpilogueRun) {
      const int64_t begin = at + tile, count = n - tile < kEpilogueRun ? n - tile : kEpilogueRun;
      const int64_t pixel = first + tile;
      typename E::Vector h_sum{}, hx_sum{};
      for_each_lane<E>(count, [&](auto lane, int64_t i) {
        using T = typename decltype(lane)::T;
        const T shift = sample_noise == nullptr ? T{} + b : lane.read(sample_noise + pixel + i) + b;
        const T value = lane.read(x + begin + i);
        const T h = h_of(lane, begin + i, value, T{} + f, shift);
        E::put(out + begin + i, T(h * f));
        if (noise_out != nullptr) {
          const T sum = lane.read_wide(noise_out + pixel + i) + h;
          memcpy(noise_out + pixel + i, &sum, sizeof(sum));
        }
        if constexpr (decltype(lane)::width == 1) {
          h_total += double(h);
          hx_total += double(h * value);
        } else {
          h_sum += h;
          hx_sum += h * value;
        }
      });
      for (int l = 0; l < VectorLane<E>::width; ++l) {
        h_total += double(h_sum[l]);
        hx_total += double(hx_sum[l]);
      }
    }
    if (t.bias_sums != nullptr) t.bias_sums[slot] = h_total;
    if (t.factor_sums != nullptr) t.factor_sums[slot] = hx_total;
  }

  // Blocks of channels, each through the run of pixels: the sums stay in registers.
  // slot: where the sums of channel 0 go.
  void backward_channels_last(int64_t sample, int64_t first, int64_t n, int64_t slot,
                              S* noise_out) const {
    const Stored* sample_noise = noise_of(sample);
    const auto block = [&](auto lane, auto vectors, int64_t o) {
      using Lane = decltype(lane);
      using T = typename Lane::T;
      constexpr int64_t width = Lane::width;
      constexpr int count = decltype(vectors)::value;
      T b[count], f[count], h_sum[count] = {}, hx_sum[count] = {};
      for (int v = 0; v < count; ++v) {
        const int64_t channel = o + v * width;
        b[v] = Lane::read_wide(bias + channel);
        f[v] = Lane::read_wide(factor + sample * c.channels + channel);
      }
      for (int64_t pixel = first; pixel < first + n; ++pixel) {
        const S shift = sample_noise == nullptr ? S(0) : E::value(sample_noise + pixel);
        T over_channels{};
        for (int v = 0; v < count; ++v) {
          const int64_t at = epilogue_offset(t, sample, o + v * width, pixel);
          const T value = Lane::read(x + at);
          const T h = h_of(lane, at, value, f[v], T(b[v] + shift));
          E::put(out + at, T(h * f[v]));
          over_channels += h;
          h_sum[v] += h;
          hx_sum[v] += h * value;
        }
        if (noise_out != nullptr) noise_out[pixel] += Lane::sum(over_channels);
      }
      for (int v = 0; v < count; ++v) {
        S h_lane[width], hx_lane[width];
        memcpy(h_lane, &h_sum[v], sizeof(T));
        memcpy(hx_lane, &hx_sum[v], sizeof(T));
        for (int64_t l = 0; l < width; ++l) {
          const int64_t channel = o + v * width + l;
          if (t.bias_sums != nullptr) t.bias_sums[slot + channel] = double(h_lane[l]);
          if (t.factor_sums != nullptr) t.factor_sums[slot + channel] = double(hx_lane[l]);
        }
      }
    };
    constexpr int64_t width = VectorLane<E>::width;
    int64_t o = 0;
    for (; o + 4 * width <= c.channels; o += 4 * width) block(VectorLane<E>{}, Count<4>{}, o);
    for (; o + 2 * width <= c.channels; o += 2 * width) block(VectorLane<E>{}, Count<2>{}, o);
    for (; o + width <= c.channels; o += width) block(VectorLane<E>{}, Count<1>{}, o);
    for (; o < c.channels; ++o) block(OneLane<E>{}, Count<1>{}, o);
  }

  void task_by_rows(int64_t task) const {
    const int64_t run = epilogue_run(t), runs = epilogue_runs(t), group = epilogue_group(t);
    const int64_t first = task % runs * run;
    const int64_t n = c.pixels - first < run ? c.pixels - first : run;
    const int64_t rows = c.samples * c.channels, begin = task / runs * group;
    for (int64_t row = begin; row < begin + group && row < rows; ++row) {
      const int64_t sample = row / c.channels, o = row % c.channels;
      if (grad == nullptr) {
        forward_row(sample, o, first, n);
      } else {
        backward_row(sample, o, first, n, row * runs + task % runs, nullptr);
      }
    }
  }

  void task_by_pixels(int64_t task) const {
    const int64_t run = epilogue_run(t), runs = epilogue_runs(t);
    const int64_t sample = task / runs, first = task % runs * run;
    const int64_t n = c.pixels - first < run ? c.pixels - first : run;
    if (grad == nullptr) return forward_channels_last(sample, first, n);
    S* noise_out = noise_sums == nullptr ? nullptr : noise_sums + sample * c.pixels;
    if (noise_out != nullptr) {
      for (int64_t i = first; i < first + n; ++i) noise_out[i] = 0;
    }
    const int64_t slot = task * c.channels;
    if (t.order == EpilogueOrder::kPixelsChannelsLast) {
      return backward_channels_last(sample, first, n, slot, noise_out);
    }
    for (int64_t o = 0; o < c.channels; ++o) {
      backward_row(sample, o, first, n, slot + o, noise_out);
    }
  }

  void tasks(int64_t begin, int64_t end) const {
    for (int64_t task = begin; task < end; ++task) {
      if (t.order == EpilogueOrder::kRows) {
        task_by_rows(task);
      } else {
        task_by_pixels(task);
      }
    }
  }
};

}  // namespace

void SDD_JOIN(conv_epilogue_, SDD_ISA)(const EpilogueTasks& t, int64_t begin, int64_t end) {
  with_element(t.of.element, [&](auto element) {
    with_act(t.of.activation.act,
             [&](auto act) { Kernel<decltype(element), act()>{t}.tasks(begin, end); });
  });
}

}  // namespace sdd
