// Interface between the torch side (_cuda.cpp) and the CUDA kernels (_kernel.cu). Plain data only.
#pragma once

#include <cstdint>

#include "../common/element_type.h"
#include "upfirdn2d.h"

namespace sdd {

// f as it lies on the device: [rows.taps, columns.taps], or [columns.taps] if `separable`.
struct DeviceFilter {
  const void* taps;
  Element element;
  bool separable;
  bool flip;  // as it lies is the order of formula (1); otherwise reversed
  double gain;
  int64_t row_stride, column_stride;  // row_stride: 0 if separable
};

// A pixel is `granule` neighbouring numbers: 1 for planes, C for channels_last. Strides in numbers.
// Every size is at least 1.
struct Upfirdn2dCuda {
  const void* x;  // [images, channels, rows.in, columns.in, granule]
  void* y;        // [images, channels, rows.out, columns.out, granule], dense
  Element element;
  int64_t images;
  int64_t channels;  // planes per image: C, or 1 for channels_last
  int64_t granule;
  int64_t image_stride, channel_stride, row_stride, pixel_stride;  // of x
  ResampleAxis rows, columns;
  DeviceFilter filter;
};

void upfirdn2d_cuda(const Upfirdn2dCuda&, void* stream);

}  // namespace sdd
