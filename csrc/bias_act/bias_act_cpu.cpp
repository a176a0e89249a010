// bias_act on the CPU: rows, threads, and the sums that make the gradient of the bias.
#include <vector>

#include "../common/cpu_work.h"
#include "bias_act_kernel.h"

namespace sdd {

void bias_act_portable(const BiasActRows&, int64_t, int64_t);
void bias_act_x86_64_v3(const BiasActRows&, int64_t, int64_t);
void bias_act_x86_64_v4(const BiasActRows&, int64_t, int64_t);

namespace {

// Rows are at least this long where they can be: shorter ones cost more in overhead than in work.
constexpr int64_t kShortRow = 16;
constexpr int64_t kLongRow = 256;

}  // namespace

void bias_act_cpu(const BiasAct& c) {
  BiasActRows rows{};
  rows.x = c.x;
  rows.y = c.y;
  rows.out = c.out;
  rows.element = c.element;
  rows.activation = c.activation;
  rows.numel = c.outer * c.channels * c.inner;
  rows.length = rows.numel;
  rows.channels = c.channels;
  rows.row_bias = true;
  const bool per_channel = c.bias != nullptr || c.bias_grad != nullptr;
  int64_t repeats = 1;  // of all channels in a row, where channels are inside
  if (per_channel && c.channels > 1) {
    rows.length = c.inner;
    if (c.inner < kShortRow) {
      const int64_t period = c.channels * c.inner;
      repeats = std::min(divide_up(kLongRow, period), c.outer);
      rows.row_bias = false;
      rows.length = repeats * period;
    }
  }
  std::vector<double> sums;
  if (c.bias_grad != nullptr) {
    sums.resize(bias_act_sums(rows.numel, rows.length, rows.row_bias));
    rows.sums = sums.data();
  }
  const WideVector bias(c.bias, c.element, c.bias != nullptr ? c.channels : 0, 0,
                        rows.row_bias ? 1 : c.inner, repeats);
  if (c.bias != nullptr) rows.bias = bias.data();

  const int64_t tasks = bias_act_tasks(rows.numel, rows.length);
  run_tasks(SDD_FOR_CPU_LEVEL(bias_act_), rows, tasks, rows.numel / tasks);
  if (c.bias_grad == nullptr) return;

  std::vector<double> total(c.channels);
  const int64_t inner = rows.row_bias ? bias_act_pieces(rows.length) : c.inner;
  for (size_t i = 0; i < sums.size();) {  // [outer][channels][inner]
    for (int64_t channel = 0; channel < c.channels && i < sums.size(); ++channel) {
      for (int64_t k = 0; k < inner; ++k) total[channel] += sums[i++];
    }
  }
  store(total.data(), c.channels, c.element, c.bias_grad);
}

}  // namespace sdd
