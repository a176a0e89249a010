// What the CPU and the CUDA entry of upfirdn2d share: checks of the arguments, how the result lies
// in memory. Against the stable ABI.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "../common/element_of.h"
#include "../common/same_device.h"
#include "upfirdn2d.h"

namespace sdd {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// With these, no product or sum of the index arithmetic overflows.
constexpr int64_t kMaxFactor = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxSize = int64_t{1} << 62;

void check_arguments(const Tensor& x, const Tensor& f, int64_t up, int64_t down, double gain) {
  STD_TORCH_CHECK(x.dim() == 4, "upfirdn2d: x must have 4 dimensions, it has ", x.dim());
  STD_TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0,
                  "upfirdn2d: f must be a filter of 1 or 2 dimensions");
  const ScalarType t = f.scalar_type();
  STD_TORCH_CHECK(t == ScalarType::Double || t == ScalarType::Float || t == ScalarType::Half ||
                      t == ScalarType::BFloat16,
                  "upfirdn2d: f must be float64, float32, float16 or bfloat16");
  STD_TORCH_CHECK(up >= 1 && up <= kMaxFactor && down >= 1 && down <= kMaxFactor,
                  "upfirdn2d: up and down must be from 1 to ", kMaxFactor);
  STD_TORCH_CHECK(std::isfinite(gain), "upfirdn2d: gain must be finite, got ", gain);
}

ResampleAxis axis_of(const char* name, int64_t size, int64_t taps, int64_t up, int64_t down,
                     int64_t before, int64_t after) {
  int64_t padded = 0;
  const bool overflow = __builtin_mul_overflow(size, up, &padded) ||
                        __builtin_add_overflow(padded, before, &padded) ||
                        __builtin_add_overflow(padded, after, &padded) || padded > kMaxSize ||
                        before < -kMaxSize || before > kMaxSize;
  STD_TORCH_CHECK(!overflow, "upfirdn2d: the upsampled and padded ", name, " of x overflows");
  STD_TORCH_CHECK(size > 0 && padded >= taps, "upfirdn2d: the upsampled and padded ", name, " is ",
                  padded, ", smaller than the filter, ", taps);
  return {up, down, before, taps, size, resampled_size(padded, taps, down)};
}

bool channels_are_neighbours(const Tensor& x) {
  return x.size(1) > 1 && x.stride(1) == 1 && x.stride(3) != 1;
}

// [N, C, H', W'], dense, channels_last where x is.
struct ResultLayout {
  int64_t sizes[4];
  int64_t strides[4];
};

ResultLayout result_layout(const Tensor& x, const ResampleAxis& rows, const ResampleAxis& columns) {
  const int64_t images = x.size(0), channels = x.size(1);
  ResultLayout y{{images, channels, rows.out, columns.out}, {0, 0, 0, 1}};
  int64_t bytes = 8;
  for (const int64_t s : y.sizes) {
    STD_TORCH_CHECK(!__builtin_mul_overflow(bytes, std::max<int64_t>(s, 1), &bytes),
                    "upfirdn2d: the result, [", images, ", ", channels, ", ", rows.out, ", ",
                    columns.out, "], is too large");
  }
  const bool last = channels_are_neighbours(x);
  y.strides[3] = last ? channels : 1;
  y.strides[2] = y.strides[3] * std::max<int64_t>(columns.out, 1);
  y.strides[1] = last ? 1 : y.strides[2] * rows.out;
  y.strides[0] = last ? y.strides[2] * rows.out : y.strides[1] * std::max<int64_t>(channels, 1);
  return y;
}

}  // namespace
}  // namespace sdd
