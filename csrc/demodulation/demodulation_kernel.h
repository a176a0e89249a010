// Interface between the torch side (_cpu.cpp, compiled once) and the kernels (_kernel.cpp, compiled
// once per instruction set). Plain data only: nothing here may emit code of its own.
#pragma once

#include "../common/element_type.h"
#include "demodulation.h"

namespace sdd {

// Weights [rows, numbers, terms], or [rows, terms, numbers]: every one of rows * numbers energies
// is the sum of the squares of its terms.
struct EnergyCall {
  const void* weight;
  void* energy;  // [rows, numbers] wide: float64 for float64, else float32
  Element element;
  int64_t rows;
  int64_t numbers;
  int64_t terms;
  bool terms_inside;  // [rows, numbers, terms]
};

struct FactorCall {
  const void* energy;   // [outputs, inputs], or [inputs, outputs] where it is turned; wide
  const void* squares;  // [samples, inputs] wide: of the styles
  void* factor;         // [samples, outputs] wide
  bool is_double;
  bool turned;
  int64_t samples;
  int64_t outputs;
  int64_t inputs;
  double eps;
};

// Tasks [begin, end): runs of kEnergyRun numbers of a row; runs of kFactorRun outputs. Their work
// depends on the shape only, never on the number of threads.
using EnergyFn = void (*)(const EnergyCall&, int64_t begin, int64_t end);
using FactorFn = void (*)(const FactorCall&, int64_t begin, int64_t end);

namespace {

constexpr int64_t kEnergyRun = 1024;
constexpr int64_t kFactorRun = 32;

SDD_FN constexpr int64_t runs_of(int64_t numbers, int64_t run) { return (numbers + run - 1) / run; }

}  // namespace
}  // namespace sdd
