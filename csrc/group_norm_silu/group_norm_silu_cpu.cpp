// group_norm_silu on the CPU: threads, and what is computed once for a group or a channel.
#include "../common/cpu_work.h"
#include "group_norm_silu_kernel.h"

namespace sdd {

#define SDD_DECLARE(FN)                                        \
  void FN##portable(const GroupNormTasks&, int64_t, int64_t);  \
  void FN##x86_64_v3(const GroupNormTasks&, int64_t, int64_t); \
  void FN##x86_64_v4(const GroupNormTasks&, int64_t, int64_t);
SDD_DECLARE(group_norm_moments_)
SDD_DECLARE(group_norm_silu_)
SDD_DECLARE(group_norm_silu_sums_)
SDD_DECLARE(group_norm_silu_gradient_)
#undef SDD_DECLARE

namespace {

constexpr int64_t kShiftPixels = 4;

// The shift of (5): the mean of a few elements of the group.
double shift_of(const GroupNorm& c, int64_t sample, int64_t group) {
  const int64_t per_group = c.channels / c.groups;
  double sum = 0;
  with_element(c.element, [&](auto e) {
    using E = decltype(e);
    const auto* x = static_cast<const typename E::Stored*>(c.x) + sample * c.channels * c.pixels;
    for (int64_t channel = group * per_group; channel < (group + 1) * per_group; ++channel) {
      for (int64_t i = 0; i < kShiftPixels; ++i) {
        const int64_t pixel = c.pixels / kShiftPixels * i;
        sum += E::value(
            x + (c.channels_inside ? pixel * c.channels + channel : channel * c.pixels + pixel));
      }
    }
  });
  return sum / double(per_group * kShiftPixels);
}

template <class S>
void passes(const GroupNorm& c) {
  const int64_t per_group = c.channels / c.groups, parts = group_norm_parts(c);
  const int64_t rows = c.samples * c.groups, all_rows = c.cotangents * rows;
  const int64_t affines = rows * per_group, slopes = c.grad ? all_rows * per_group : 0;
  const double count = double(per_group * c.pixels);
  const WideVector weights(c.weight, c.parameter_element, c.channels, 1);
  const WideVector biases(c.bias, c.parameter_element, c.channels, 0);
  const auto* weight = static_cast<const S*>(weights.data());
  const auto* bias = static_cast<const S*>(biases.data());
  constexpr int64_t most_lanes = 64 / sizeof(S);  // which kernels may read past the last factor
  const std::unique_ptr<S[]> factors(new S[3 * affines + 2 * slopes + most_lanes]);
  S *const shift = factors.get(), *const scale = shift + affines, *const offset = scale + affines;
  S *const slope = offset + affines, *const rest = slope + slopes;
  const std::unique_ptr<double[]> sums(new double[all_rows * parts * 2]);
  const GroupNormTasks t{c, shift, scale, offset, slope, rest, sums.get()};
  const int64_t tasks = group_norm_tasks(c);
  const int64_t work = c.cotangents * c.samples * c.channels * c.pixels / tasks;

  const auto for_each_channel = [&](S* of, int64_t row, auto value) {
    for (int64_t i = 0; i < per_group; ++i) of[row * per_group + i] = value(i);
  };
  const auto sum_of = [&](int64_t row, int which) {
    double sum = 0;
    for (int64_t p = 0; p < parts; ++p) sum += sums[(row * parts + p) * 2 + which];
    return sum;
  };

  if (c.grad == nullptr) {
    for (int64_t row = 0; row < rows; ++row) {
      const S value = S(shift_of(c, row / c.groups, row % c.groups));
      std::fill_n(shift + row * per_group, per_group, value);
    }
    run_tasks(SDD_FOR_CPU_LEVEL(group_norm_moments_), t, tasks, work);
    for (int64_t row = 0; row < rows; ++row) {
      const GroupStatistics g = group_statistics(sum_of(row, 0), sum_of(row, 1),
                                                 double(shift[row * per_group]), count, c.eps);
      c.mean[row] = g.mean;
      c.rstd[row] = g.rstd;
    }
  }
  for (int64_t i = 0; i < affines; ++i) {
    const int64_t row = i / per_group, channel = i % c.channels;
    const auto a = affine_of<S>({c.mean[row], c.rstd[row]}, weight[channel], bias[channel]);
    shift[i] = a.shift;
    scale[i] = a.scale;
    offset[i] = a.offset;
  }
  if (c.grad == nullptr) return run_tasks(SDD_FOR_CPU_LEVEL(group_norm_silu_), t, tasks, work);

  run_tasks(SDD_FOR_CPU_LEVEL(group_norm_silu_sums_), t, tasks, work);
  for (int64_t row = 0; row < all_rows; ++row) {
    const GroupStatistics g = {c.mean[row % rows], c.rstd[row % rows]};
    const auto s = group_slope<S>(g, sum_of(row, 0), sum_of(row, 1), count);
    std::fill_n(slope + row * per_group, per_group, s.slope);
    std::fill_n(rest + row * per_group, per_group, s.rest);
  }
  run_tasks(SDD_FOR_CPU_LEVEL(group_norm_silu_gradient_), t, tasks, work);
}

}  // namespace

void group_norm_silu_cpu(const GroupNorm& c) {
  c.element == Element::kFloat64 ? passes<double>(c) : passes<float>(c);
}

}  // namespace sdd
