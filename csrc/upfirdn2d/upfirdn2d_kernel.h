// Interface between the torch side (upfirdn2d.cpp, upfirdn2d_cpu.cpp, compiled once) and the
// kernels
// (_kernel.cpp, compiled once per instruction set; _kernel.cu). Plain data only: nothing here may
// emit code of its own.
#pragma once

#include <cstdint>

#include "../common/element.h"
#include "upfirdn2d.h"

namespace sdd {

// f in memory.
struct Filter {
  const void* taps;  // [rows.taps, columns.taps], or [columns.taps] if `separable`
  Element element;
  bool separable;
  bool flip;  // its order is that of formula (1); otherwise reversed
  double gain;
  int64_t row_stride, column_stride;  // row_stride: 0 if separable
};

// A pixel is `granule` neighboring elements: 1 for planes, C for channels_last. Strides in
// elements. Every size is at least 1.
struct Upfirdn2d {
  const void* x;  // [images, channels, rows.in, columns.in, granule]
  void* y;        // [images, channels, rows.out, columns.out, granule], dense
  Element element;
  int64_t images;
  int64_t channels;  // planes per image: C, or 1 for channels_last
  int64_t granule;
  int64_t image_stride, channel_stride, row_stride, pixel_stride;  // of x
  ResampleAxis rows, columns;
  Filter filter;
};

void upfirdn2d_cpu(const Upfirdn2d&);
void upfirdn2d_cuda(const Upfirdn2d&, void* stream);

// What the CPU kernel takes. Tasks: the output rows, counted through all planes.
struct Upfirdn2dRows : Upfirdn2d {
  // The taps g of (1), gain included. Separable: row_taps [rows.taps] and column_taps
  // [columns.taps]. Otherwise row_taps is null and column_taps is [rows.taps, columns.taps].
  const double* row_taps;
  const double* column_taps;
  int64_t x_size;  // elements from the first of x to the last
};

}  // namespace sdd
