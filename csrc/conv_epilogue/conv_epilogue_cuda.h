// Interface between the torch side (_cuda.cpp) and the CUDA kernels (_kernel.cu). Plain data only.
#pragma once

#include <cstdint>

#include "../bias_act/bias_act.h"
#include "../common/element_type.h"

namespace sdd {

// Feature maps [N, O, pixels], or [N, pixels, O] where channels are last. Every size is at least 1.
struct EpilogueCuda {
  const void* x;             // the result of the convolution
  const void* grad;          // backward only: the incoming gradient
  const void* factor;        // [N, O] as x; nullptr: 1
  const float* wide_factor;  // [N, O], instead of factor, beside 16-bit x; nullptr: factor
  const void* noise;         // [N, pixels] or [pixels]; nullptr: 0
  const void* bias;          // [O]; nullptr: 0
  void* out;                 // like x, may be x: the result, or the gradient of x
  // Backward only; nullptr: not wanted. The gradient of factor or wide_factor, whichever is there.
  void* factor_grad;  // [N, O]
  void* noise_grad;   // as noise
  void* bias_grad;    // [O]
  double* parts;      // [conv_epilogue_parts()], unless that is 0
  Element element;
  Act act;
  double gain;
  double alpha;
  double limit;  // NaN: none
  int64_t samples, channels, pixels;
  int64_t noise_stride;  // between samples: pixels, or 0
  bool channels_last;
};

// Numbers of room that the gradients wanted take on the way.
int64_t conv_epilogue_parts(const EpilogueCuda&);

void conv_epilogue_forward_cuda(const EpilogueCuda&, void* stream);
void conv_epilogue_backward_cuda(const EpilogueCuda&, void* stream);

}  // namespace sdd
