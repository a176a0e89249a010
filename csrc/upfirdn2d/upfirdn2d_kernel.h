// Interface between the torch side (_cpu.cpp, compiled once) and the kernel (_kernel.cpp, compiled
// once per instruction set). Plain data only: nothing here may emit code of its own.
#pragma once

#include <cstdint>

#include "../common/element_type.h"
#include "upfirdn2d.h"

namespace sdd {

// A pixel is `granule` neighboring elements: 1 for planes, C for channels_last. Strides in elements.
struct Upfirdn2d {
  const void* x;  // [images, channels, rows.in, columns.in, granule]
  void* y;        // [images, channels, rows.out, columns.out, granule], dense
  Element element;
  int64_t channels;  // planes per image: C, or 1 for channels_last
  int64_t granule;
  int64_t image_stride, channel_stride, row_stride, pixel_stride;  // of x
  ResampleAxis rows, columns;
  // The taps g of (1), gain included. Separable: row_taps [rows.taps] and column_taps
  // [columns.taps]. Otherwise row_taps is null and column_taps is [rows.taps, columns.taps].
  const double* row_taps;
  const double* column_taps;
  int64_t x_size;  // elements from the first of x to the last
};

// Computes the output rows `begin` ... `end - 1`, counted through all planes.
using Upfirdn2dFn = void (*)(const Upfirdn2d&, int64_t begin, int64_t end);

}  // namespace sdd
