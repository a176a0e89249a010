// Interface between the torch side (_cuda.cpp) and the CUDA kernels (_kernel.cu). Plain data only.
#pragma once

#include <cstdint>

#include "../common/element_type.h"
#include "softmax_entropy_l1.h"

namespace sdd {

struct EntropyCuda {
  const void* x;  // [rows, n], or [rows, channels, n]; entries are neighbours
  Element element;
  int64_t rows, n;                                // each at least 1
  int64_t channels;                               // 0: the signed map; C: mean_c |x_c|
  int64_t row_stride;                             // in numbers
  int64_t channel_stride;                         // in numbers
  double* room;                                   // [entropy_room()]
  double *entropy, *l1, *deficit, *log_mean_exp;  // [rows]
};

// Numbers of room that the kernels take on the way.
int64_t entropy_room(Element element, bool abs_mean, int64_t rows, int64_t n);

void softmax_entropy_l1_cuda(const EntropyCuda&, void* stream);

struct EntropyGradientCuda {
  const void* x;  // as above
  Element element;
  int64_t rows, n, channels, row_stride, channel_stride;
  void* grad;  // contiguous
  GradientRows of_rows;
};

void softmax_entropy_l1_backward_cuda(const EntropyGradientCuda&, void* stream);

}  // namespace sdd
