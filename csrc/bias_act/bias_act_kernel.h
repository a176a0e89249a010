// Interface between the torch side (bias_act.cpp, bias_act_cpu.cpp, compiled once) and the kernels
// (_kernel.cpp, compiled once per instruction set; _kernel.cu). Plain data only: nothing here may
// emit code of its own.
#pragma once

#include <cstdint>

#include "../common/element.h"
#include "bias_act.h"

namespace sdd {

// A dense tensor [outer, channels, inner] in the order of memory: NCHW has the pixels inside, NHWC
// has them outside. Every size is at least 1.
struct BiasAct {
  const void* x;      // [outer, channels, inner]; backward: the incoming gradient
  const void* y;      // [outer, channels, inner], backward only: the result of the forward call
  const void* bias;   // [channels], forward only; nullptr: none
  void* out;          // [outer, channels, inner]; may be x
  void* bias_grad;    // [channels], backward only; nullptr: not wanted
  double* workspace;  // [bias_act_workspace()], on a GPU where bias_grad is wanted
  Element element;
  Activation activation;
  int64_t outer, channels, inner;
};

void bias_act_cpu(const BiasAct&);
void bias_act_cuda(const BiasAct&, void* stream);

// Elements of workspace that the gradient of the bias takes on a GPU.
int64_t bias_act_workspace(int64_t outer, int64_t channels, int64_t inner);

// The same tensor as rows of `length` neighbors; the last row may be shorter. A row is cut into
// pieces of kActChunk elements; a task is one piece of each row of a group. So the work of a task
// depends on the shape only, never on the number of threads.
struct BiasActRows {
  const void* x;     // [numel]
  const void* y;     // [numel]
  const void* bias;  // row_bias: [channels], else [length]; float64 or else float32; nullptr: none
  void* out;         // [numel]
  double* sums;      // [bias_act_sums()], all zeros; nullptr: not wanted
  Element element;
  Activation activation;
  int64_t numel;
  int64_t length;
  int64_t channels;
  // True: row r belongs to channel r % channels (channels outside, as NCHW).
  // False: entry i of each row has bias[i] (channels inside, as NHWC).
  bool row_bias;
};

constexpr int64_t kActChunk = 16384;

namespace {

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
