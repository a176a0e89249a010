// Interface between the torch side (_cuda.cpp) and the CUDA kernels (_kernel.cu). Plain data only.
#pragma once

#include <cstdint>

#include "../common/element_type.h"
#include "bias_act.h"

namespace sdd {

// A dense tensor [outer, channels, inner] in the order of memory: NCHW has the pixels inside, NHWC
// has them outside. Every size is at least 1.
struct BiasActCuda {
  const void* x;     // backward: the incoming gradient
  const void* y;     // backward only: the result of the forward call
  const void* bias;  // [channels], forward only; nullptr: none
  void* out;         // may be x
  void* bias_grad;   // [channels], backward only; nullptr: not wanted
  double* parts;     // [bias_act_parts()], where bias_grad is wanted
  Element element;
  Act act;
  double gain;
  double alpha;
  double limit;  // NaN: none
  int64_t outer, channels, inner;
};

// Numbers of room that the gradient of the bias takes on the way.
int64_t bias_act_parts(int64_t outer, int64_t channels, int64_t inner);

void bias_act_forward_cuda(const BiasActCuda&, void* stream);
void bias_act_backward_cuda(const BiasActCuda&, void* stream);

}  // namespace sdd
