// Interface between the torch side (_cpu.cpp, compiled once) and the kernels (_kernel.cpp, compiled
// once per instruction set). Plain data only: nothing here may emit code of its own.
#pragma once

#include "../bias_act/bias_act_kernel.h"

namespace sdd {

// Feature maps [N, O, pixels], or [N, pixels, O] with channels_last. A task is a run of
// neighbouring pixels of one sample with all their channels: the work of a task depends on the
// shape only, never on the number of threads.
struct EpilogueCall {
  const void* x;        // the result of the convolution
  const void* grad;     // backward only: the incoming gradient
  const void* factor;   // [N, O] wide (float64 for float64, else float32); nullptr: 1
  const void* noise;    // [N, pixels] or [pixels], as x; nullptr: 0
  const void* bias;     // [O] wide; nullptr: 0
  void* out;            // like x, may be x: the result, or the gradient of x
  double* factor_sums;  // backward only: [tasks][O], sums of h * x; nullptr: not wanted
  double* bias_sums;    // backward only: [tasks][O], sums of h; nullptr: not wanted
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
  bool channels_last;
};

// Tasks [begin, end) of epilogue_tasks(): samples * epilogue_runs(pixels, ...).
using EpilogueFn = void (*)(const EpilogueCall&, int64_t begin, int64_t end);

namespace {

constexpr int64_t kEpilogueElements = 32768;  // of a task, about
constexpr int64_t kEpilogueRun = 1024;        // pixels of a task, at most

SDD_FN constexpr int64_t epilogue_run(int64_t channels) {  // pixels
  const int64_t run = kEpilogueElements / (channels > 0 ? channels : 1) / 64 * 64;
  return run < 64 ? 64 : run > kEpilogueRun ? kEpilogueRun : run;
}

SDD_FN constexpr int64_t epilogue_runs(int64_t pixels, int64_t channels) {
  return divide_up(pixels, epilogue_run(channels));
}

// Of pixel `pixel` of channel `channel` of sample `sample`.
SDD_FN constexpr int64_t epilogue_offset(const EpilogueCall& c, int64_t sample, int64_t channel,
                                         int64_t pixel) {
  return c.channels_last ? (sample * c.pixels + pixel) * c.channels + channel
                         : (sample * c.channels + channel) * c.pixels + pixel;
}

}  // namespace
}  // namespace sdd
