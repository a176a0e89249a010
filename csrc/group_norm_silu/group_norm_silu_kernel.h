// Interface between the torch side (group_norm_silu.cpp, group_norm_silu_cpu.cpp, compiled once)
// and the kernels (_kernel.cpp, compiled once per instruction set; _kernel.cu). Plain data only:
// nothing here may emit code of its own. Wide: float64 for float64, else float32.
#pragma once

#include <cstdint>

#include "../common/element.h"
#include "group_norm_silu.h"

namespace sdd {

struct GroupNorm {
  const void* x;       // [samples, channels, pixels], or [samples, pixels, channels]
  const void* grad;    // [cotangents, ... of x]; nullptr: forward
  void* out;           // as grad, or as x
  const void* weight;  // [channels]
  const void* bias;    // [channels]
  double* mean;        // [samples, groups], made by the forward pass
  double* rstd;        // [samples, groups], likewise
  Element element;     // of x, grad and out
  Element parameter_element;
  bool channels_inside;  // [samples, pixels, channels]
  bool silu;
  int64_t samples, channels, pixels, groups;
  int64_t cotangents;  // 1 in the forward pass
  double eps;
  double* workspace;  // [group_norm_silu_workspace()], on a GPU
};

void group_norm_silu_cpu(const GroupNorm&);
void group_norm_silu_cuda(const GroupNorm&, void* stream);

// Elements of workspace that it takes on a GPU.
int64_t group_norm_silu_workspace(const GroupNorm&);

// For the CPU kernel: the factors of (6) and (7) for every channel, and the sums that they are made
// of. A task is a chunk of the pixels of one sample and cotangent with all its channels, or of one
// channel where the pixels are inside. The work of a task depends on the shape only, never on the
// number of threads.
struct GroupNormTasks {
  const GroupNorm& of;
  const void* shift;   // [samples, channels] wide
  const void* scale;   // [samples, channels] wide
  const void* offset;  // [samples, channels] wide
  const void* slope;   // [cotangents, samples, channels] wide
  const void* rest;    // [cotangents, samples, channels] wide
  double* sums;        // [cotangents, samples, groups, parts, 2], see group_norm_parts()
};

constexpr int64_t kGroupNormChunk = 65536;  // elements, or one pixel

namespace {

SDD_FN constexpr int64_t group_norm_chunk(const GroupNorm& c) {  // pixels
  const int64_t most = c.channels_inside ? kGroupNormChunk / c.channels : kGroupNormChunk;
  return most < 1 ? 1 : most < c.pixels ? most : c.pixels;
}

SDD_FN constexpr int64_t group_norm_chunks(const GroupNorm& c) {
  return divide_up(c.pixels, group_norm_chunk(c));
}

SDD_FN constexpr int64_t group_norm_tasks(const GroupNorm& c) {
  return c.cotangents * c.samples * (c.channels_inside ? 1 : c.channels) * group_norm_chunks(c);
}

// How many tasks have a part of a group.
SDD_FN constexpr int64_t group_norm_parts(const GroupNorm& c) {
  return (c.channels_inside ? 1 : c.channels / c.groups) * group_norm_chunks(c);
}

}  // namespace
}  // namespace sdd
