// Interface between the torch side (demodulation.cpp, demodulation_cpu.cpp, compiled once) and the
// kernels (_kernel.cpp, compiled once per instruction set; _kernel.cu). Plain data only: nothing
// here may emit code of its own. Wide: float64 for float64, else float32.
#pragma once

#include <cstdint>

#include "../common/element.h"
#include "demodulation.h"

namespace sdd {

struct Demodulation {
  const void* weight;  // [rows, columns, terms], or [rows, terms, columns]
  const void* styles;  // [samples, inputs]
  void* energy;        // [rows, columns] wide; this is [outputs, inputs]
  void* factor;        // [samples, outputs] wide
  Element element;
  bool terms_inside;  // [rows, columns, terms]
  int64_t rows, columns, terms;
  int64_t samples, outputs, inputs;
  double eps;
};

void demodulation_cpu(const Demodulation&);
void demodulation_cuda(const Demodulation&, void* stream);

// For the CPU kernel: every one of rows * columns energies is the sum of the squares of its terms.
// Tasks: runs of kEnergyRun columns of a row. Their work depends on the shape only, never on the
// number of threads.
struct Energies {
  const void* weight;  // [rows, columns, terms], or [rows, terms, columns]
  void* energy;        // [rows, columns] wide
  Element element;
  int64_t rows, columns, terms;
  bool terms_inside;  // [rows, columns, terms]
};

// Tasks: runs of kFactorRun outputs.
struct Factors {
  const Demodulation& of;
  const void* squares;  // [samples, inputs] wide: of the styles
};

constexpr int64_t kEnergyRun = 1024;
constexpr int64_t kFactorRun = 32;

}  // namespace sdd
