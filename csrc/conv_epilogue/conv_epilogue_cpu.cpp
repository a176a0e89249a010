// conv_epilogue on the CPU: tasks, threads, and the sums that make the gradients of factor, noise
// and bias.
#include <vector>

#include "../common/cpu_work.h"
#include "conv_epilogue_kernel.h"

namespace sdd {

void conv_epilogue_portable(const EpilogueTasks&, int64_t, int64_t);
void conv_epilogue_x86_64_v3(const EpilogueTasks&, int64_t, int64_t);
void conv_epilogue_x86_64_v4(const EpilogueTasks&, int64_t, int64_t);

void conv_epilogue_cpu(const Epilogue& c) {
  const WideVector factor(c.factor, c.factor_element, c.samples * c.channels, 1.0);
  const WideVector bias(c.bias, c.element, c.channels, 0.0);
  const EpilogueOrder order = c.channels_last           ? EpilogueOrder::kPixelsChannelsLast
                              : c.noise_grad != nullptr ? EpilogueOrder::kPixels
                                                        : EpilogueOrder::kRows;
  EpilogueTasks t{c, factor.data(), bias.data(), nullptr, nullptr, nullptr, order};

  const int64_t runs = epilogue_runs(t), sums = epilogue_sums(t);
  std::vector<double> factor_sums(c.factor_grad != nullptr ? sums : 0);
  std::vector<double> bias_sums(c.bias_grad != nullptr ? sums : 0);
  t.factor_sums = c.factor_grad != nullptr ? factor_sums.data() : nullptr;
  t.bias_sums = c.bias_grad != nullptr ? bias_sums.data() : nullptr;
  const bool wide = c.element == Element::kFloat64;
  const int64_t noise_count = c.noise_grad != nullptr ? c.samples * c.pixels : 0;
  const std::unique_ptr<double[]> noise_wide(new double[wide ? noise_count : 0]);
  const std::unique_ptr<float[]> noise_narrow(new float[wide ? 0 : noise_count]);
  if (noise_count > 0) {
    t.noise_sums = wide ? static_cast<void*>(noise_wide.get()) : noise_narrow.get();
  }

  const int64_t tasks = epilogue_tasks(t);
  run_tasks(SDD_FOR_CPU_LEVEL(conv_epilogue_), t, tasks, c.samples * c.channels * c.pixels / tasks);

  // Sums over the runs of a sample, and over the samples, in order.
  const auto row_of = [&](int64_t i) {  // of sums[i]: sample * channels + channel
    if (t.order == EpilogueOrder::kRows) return i / runs;
    return i / c.channels / runs * c.channels + i % c.channels;
  };
  if (c.factor_grad != nullptr) {
    std::vector<double> total(c.samples * c.channels);
    for (int64_t i = 0; i < sums; ++i) total[row_of(i)] += factor_sums[i];
    store(total.data(), c.samples * c.channels, c.factor_element, c.factor_grad);
  }
  if (c.bias_grad != nullptr) {
    std::vector<double> total(c.channels);
    for (int64_t i = 0; i < sums; ++i) total[row_of(i) % c.channels] += bias_sums[i];
    store(total.data(), c.channels, c.element, c.bias_grad);
  }
  if (c.noise_grad != nullptr) {
    const int64_t count = c.noise_stride == 0 ? c.pixels : noise_count;
    std::vector<double> total(count);
    for (int64_t i = 0; i < noise_count; ++i) {
      total[i % count] += wide ? noise_wide[i] : double(noise_narrow[i]);
    }
    store(total.data(), count, c.element, c.noise_grad);
  }
}

}  // namespace sdd
