// Interface between the torch side (softmax_entropy_l1.cpp, _cpu.cpp: compiled once) and kernels
// (_kernel.cpp, compiled once per instruction set; _kernel.cu). Plain data only: nothing here may
// emit code of its own.
#pragma once

#include <cstdint>

#include "../common/element.h"
#include "softmax_entropy_l1.h"

namespace sdd {

struct EntropyMaps {
  const void* x;  // [rows, n], or [rows, channels, n]; entries are neighbors
  Element element;
  int64_t rows, n;         // each at least 1
  int64_t channels;        // 0: the signed map; C: mean_c |x_c|
  int64_t row_stride;      // in elements
  int64_t channel_stride;  // in elements
};

struct EntropyResults {
  double *entropy, *l1, *deficit, *log_mean_exp;  // [rows]
};

// grad: [rows, n], or [rows, channels, n], contiguous
void softmax_entropy_l1_cpu(const EntropyMaps&, const EntropyResults&);
void softmax_entropy_l1_backward_cpu(const EntropyMaps&, const GradientRows&, void* grad);
void softmax_entropy_l1_cuda(const EntropyMaps&, const EntropyResults&, double* workspace,
                             void* stream);
void softmax_entropy_l1_backward_cuda(const EntropyMaps&, const GradientRows&, void* grad,
                                      void* stream);

// Elements of `workspace`.
int64_t entropy_workspace(const EntropyMaps&);

// A run of `count` <= kEntropyChunk neighboring map entries of one row.
struct EntropyChunk {
  const void* data;  // signed map: [count]; abs-mean map: [channels, count], see stride
  Element element;
  int64_t count;
  int64_t channels;        // 0: entropy of the entries themselves; C: of mean_c |x_c|
  int64_t channel_stride;  // elements between the channels of one entry
};

// The same chunk of row `row`, of n entries, and where its gradient belongs.
struct EntropyGradientChunk {
  EntropyChunk entries;
  void* grad;  // signed map: [count]; abs-mean map: [channels, count] of rows [channels, n]
  int64_t row, n;
};

// Entries per chunk on a CPU: the unit of work, whatever the number of threads, so that the result
// does not depend on them. 16384 floats stay in the second-level cache for a second step.
constexpr int64_t kEntropyChunk = 16384;

}  // namespace sdd
