// Interface between the torch side (_cpu.cpp, compiled once) and the kernels (_kernel.cpp, compiled
// once per instruction set). Plain data only: nothing here may emit code of its own.
#pragma once

#include <cstdint>

#include "../common/element_type.h"
#include "bias_act.h"

namespace sdd {

// A dense tensor as rows of `length` neighbours, in the order of memory; the last row may be
// shorter. A row is cut into pieces of kActChunk elements; a task is one piece of each row of a
// group. So the work of a task depends on the shape only, never on the number of threads.
struct BiasActCall {
  const void* x;     // [numel]; backward: the incoming gradient
  const void* y;     // [numel], backward only: the result of the forward call
  const void* bias;  // forward only, float64 or else float32; nullptr: none
  void* out;         // [numel]; may be x
  double* sums;      // backward only, all zeros, see bias_act_sums(); nullptr: not wanted
  Element element;
  Act act;
  double gain;
  double alpha;
  double limit;  // NaN: none
  int64_t numel;
  int64_t length;
  int64_t channels;
  // True: row r belongs to channel r % channels (channels outside, as NCHW).
  // False: entry i of each row has bias[i] (channels inside, as NHWC).
  bool row_bias;
};

// Tasks [begin, end) of bias_act_tasks(numel, length).
using BiasActFn = void (*)(const BiasActCall&, int64_t begin, int64_t end);

constexpr int64_t kActChunk = 16384;

namespace {

SDD_FN constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

SDD_FN constexpr int64_t bias_act_pieces(int64_t length) { return divide_up(length, kActChunk); }

SDD_FN constexpr int64_t bias_act_group(int64_t length) {  // rows
  return length > kActChunk / 8 ? 8 : kActChunk / length;
}

SDD_FN constexpr int64_t bias_act_groups(int64_t numel, int64_t length) {
  return divide_up(divide_up(numel, length), bias_act_group(length));
}

SDD_FN constexpr int64_t bias_act_tasks(int64_t numel, int64_t length) {
  return bias_act_groups(numel, length) * bias_act_pieces(length);
}

// What the backward pass leaves in `sums`, to be added up in order. row_bias: [rows][pieces], the
// sum of each piece. Otherwise: [groups][length], sums over the rows of a group.
SDD_FN constexpr int64_t bias_act_sums(int64_t numel, int64_t length, bool row_bias) {
  return row_bias ? divide_up(numel, length) * bias_act_pieces(length)
                  : bias_act_groups(numel, length) * length;
}

}  // namespace
}  // namespace sdd
