// Interface between the torch side (conv_epilogue.cpp, conv_epilogue_cpu.cpp, compiled once) and
// the kernels (_kernel.cpp, compiled once per instruction set; _kernel.cu). Plain data only:
// nothing here may emit code of its own.
#pragma once

#include <cstdint>

#include "../common/element.h"
#include "conv_epilogue.h"

namespace sdd {

// Feature maps [N, O, pixels], or [N, pixels, O] where channels are last. Every size is at least 1.
struct Epilogue {
  const void* x;       // [N, O, pixels]: the result of the convolution
  const void* grad;    // [N, O, pixels], backward only: the incoming gradient
  const void* factor;  // [N, O]; nullptr: 1
  const void* noise;   // [N, pixels] or [pixels]; nullptr: 0
  const void* bias;    // [O]; nullptr: 0
  void* out;           // [N, O, pixels], may be x: the result, or the gradient of x
  // Backward only; nullptr: not wanted.
  void* factor_grad;  // [N, O]
  void* noise_grad;   // [N, pixels] or [pixels]
  void* bias_grad;    // [O]
  double* workspace;  // [conv_epilogue_workspace()], on a GPU
  Element element;
  Element factor_element;  // of factor and its gradient: as x, or float32 beside 16-bit x
  Activation activation;
  int64_t samples, channels, pixels;
  int64_t noise_stride;  // between samples: pixels, or 0
  bool channels_last;
};

void conv_epilogue_cpu(const Epilogue&);
void conv_epilogue_cuda(const Epilogue&, void* stream);

// Elements of workspace that the gradients wanted take on a GPU.
int64_t conv_epilogue_workspace(const Epilogue&);

// By rows, for contiguous maps: a task is a run of neighboring pixels of each row of a group. By
// pixels, for channels_last and where sums over channels are wanted: a task is a run of pixels of
// one sample with all their channels. Either way the work of a task depends on the shape only,
// never on the number of threads.
enum class EpilogueOrder { kRows, kPixels, kPixelsChannelsLast };

// What the CPU kernel takes; wide: float64 for float64, else float32.
struct EpilogueTasks {
  const Epilogue& of;
  const void* factor;   // [N, O] wide
  const void* bias;     // [O] wide
  double* factor_sums;  // [epilogue_sums()]: sums of h * x; nullptr: not wanted
  double* bias_sums;    // [epilogue_sums()]: sums of h; nullptr: not wanted
  void* noise_sums;     // [N, pixels] wide: sums of h; nullptr: not wanted
  EpilogueOrder order;
};

namespace {

constexpr int64_t kEpilogueElements = 32768;  // of a task, about
constexpr int64_t kEpilogueRun = 1024;        // pixels of a task by pixels, at most

SDD_FN constexpr int64_t epilogue_run(const EpilogueTasks& t) {  // pixels
  if (t.order == EpilogueOrder::kRows) return kEpilogueElements;
  if (t.order == EpilogueOrder::kPixels) return kEpilogueRun;
  const int64_t run = kEpilogueElements / (t.of.channels > 0 ? t.of.channels : 1) / 64 * 64;
  return run < 64 ? 64 : run > kEpilogueRun ? kEpilogueRun : run;
}

SDD_FN constexpr int64_t epilogue_runs(const EpilogueTasks& t) {
  return divide_up(t.of.pixels, epilogue_run(t));
}

SDD_FN constexpr int64_t epilogue_group(const EpilogueTasks& t) {  // rows, of a task by rows
  return t.of.pixels > kEpilogueElements || t.of.pixels == 0 ? 1 : kEpilogueElements / t.of.pixels;
}

SDD_FN constexpr int64_t epilogue_tasks(const EpilogueTasks& t) {
  const bool by_rows = t.order == EpilogueOrder::kRows;
  return epilogue_runs(t) *
         (by_rows ? divide_up(t.of.samples * t.of.channels, epilogue_group(t)) : t.of.samples);
}

// What the backward pass leaves in factor_sums and bias_sums, to be added up in order.
// By rows: [samples][channels][runs]. By pixels: [samples][runs][channels].
SDD_FN constexpr int64_t epilogue_sums(const EpilogueTasks& t) {
  return t.of.samples * t.of.channels * epilogue_runs(t);
}

// Of pixel `pixel` of channel `channel` of sample `sample`.
SDD_FN constexpr int64_t epilogue_offset(const EpilogueTasks& t, int64_t sample, int64_t channel,
                                         int64_t pixel) {
  return t.order == EpilogueOrder::kPixelsChannelsLast
             ? (sample * t.of.pixels + pixel) * t.of.channels + channel
             : (sample * t.of.channels + channel) * t.of.pixels + pixel;
}

}  // namespace
}  // namespace sdd
