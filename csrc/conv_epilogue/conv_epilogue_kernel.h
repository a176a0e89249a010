// Interface between the torch side (_cpu.cpp, compiled once) and the kernels (_kernel.cpp, compiled
// once per instruction set). Plain data only: nothing here may emit code of its own.
#pragma once

#include "../bias_act/bias_act_kernel.h"

namespace sdd {

// By rows, for contiguous maps: a task is a run of neighbouring pixels of each row of a group. By
// pixels, for channels_last and where sums over channels are wanted: a task is a run of pixels of
// one sample with all their channels. Either way the work of a task depends on the shape only,
// never on the number of threads.
enum class EpilogueOrder { kRows, kPixels, kPixelsChannelsLast };

// Feature maps [N, O, pixels], or [N, pixels, O] where channels are last.
struct EpilogueCall {
  const void* x;        // the result of the convolution
  const void* grad;     // backward only: the incoming gradient
  const void* factor;   // [N, O] wide (float64 for float64, else float32); nullptr: 1
  const void* noise;    // [N, pixels] or [pixels], as x; nullptr: 0
  const void* bias;     // [O] wide; nullptr: 0
  void* out;            // like x, may be x: the result, or the gradient of x
  double* factor_sums;  // backward only: sums of h * x, see epilogue_sums(); nullptr: not wanted
  double* bias_sums;    // backward only: sums of h, likewise
  void* noise_sums;     // backward only: [N, pixels] wide, sums of h; nullptr: not wanted
  Element element;
  Act act;
  double gain;
  double alpha;
  double limit;  // NaN: none
  int64_t samples;
  int64_t channels;
  int64_t pixels;
  int64_t noise_stride;  // between samples: pixels, or 0
  EpilogueOrder order;
};

// Tasks [begin, end) of epilogue_tasks().
using EpilogueFn = void (*)(const EpilogueCall&, int64_t begin, int64_t end);

namespace {

constexpr int64_t kEpilogueElements = 32768;  // of a task, about
constexpr int64_t kEpilogueRun = 1024;        // pixels of a task by pixels, at most

SDD_FN constexpr int64_t epilogue_run(const EpilogueCall& c) {  // pixels
  if (c.order == EpilogueOrder::kRows) return kEpilogueElements;
  if (c.order == EpilogueOrder::kPixels) return kEpilogueRun;
  const int64_t run = kEpilogueElements / (c.channels > 0 ? c.channels : 1) / 64 * 64;
  return run < 64 ? 64 : run > kEpilogueRun ? kEpilogueRun : run;
}

SDD_FN constexpr int64_t epilogue_runs(const EpilogueCall& c) {
  return divide_up(c.pixels, epilogue_run(c));
}

SDD_FN constexpr int64_t epilogue_group(const EpilogueCall& c) {  // rows, of a task by rows
  return c.pixels > kEpilogueElements || c.pixels == 0 ? 1 : kEpilogueElements / c.pixels;
}

SDD_FN constexpr int64_t epilogue_tasks(const EpilogueCall& c) {
  const bool by_rows = c.order == EpilogueOrder::kRows;
  return epilogue_runs(c) *
         (by_rows ? divide_up(c.samples * c.channels, epilogue_group(c)) : c.samples);
}

// What the backward pass leaves in factor_sums and bias_sums, to be added up in order.
// By rows: [samples][channels][runs]. By pixels: [samples][runs][channels].
SDD_FN constexpr int64_t epilogue_sums(const EpilogueCall& c) {
  return c.samples * c.channels * epilogue_runs(c);
}

// Of pixel `pixel` of channel `channel` of sample `sample`.
SDD_FN constexpr int64_t epilogue_offset(const EpilogueCall& c, int64_t sample, int64_t channel,
                                         int64_t pixel) {
  return c.order == EpilogueOrder::kPixelsChannelsLast
             ? (sample * c.pixels + pixel) * c.channels + channel
             : (sample * c.channels + channel) * c.pixels + pixel;
}

}  // namespace
}  // namespace sdd
