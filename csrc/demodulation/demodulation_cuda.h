// Interface between the torch side (_cuda.cpp) and the CUDA kernels (_kernel.cu). Plain data only.
#pragma once

#include <cstdint>

#include "../common/element_type.h"

namespace sdd {

struct DemodulationCuda {
  const void* weight;  // [rows, numbers, terms], or [rows, terms, numbers]
  const void* styles;  // [samples, inputs]
  void* energy;        // [rows, numbers] wide: float64 for float64, else float32; this is
                       // [outputs, inputs], or [inputs, outputs] where it is turned
  void* factor;        // [samples, outputs] wide
  Element element;
  bool terms_inside;  // [rows, numbers, terms]
  bool turned;
  int64_t rows, numbers, terms;
  int64_t samples, outputs, inputs;
  double eps;
};

void demodulation_cuda(const DemodulationCuda&, void* stream);

}  // namespace sdd
