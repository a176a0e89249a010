// What the CPU and the CUDA entries of softmax_entropy_l1 share: checks, and where the numbers lie.
// Against the stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "../common/element_of.h"
#include "../common/same_device.h"
#include "softmax_entropy_l1.h"

namespace sdd {
namespace {

using torch::stable::Tensor;

struct EntropyInput {
  Tensor x;
  Element element;
  int64_t rows, n;
  int64_t channels;        // 0: the signed map; C: mean_c |x_c|
  int64_t row_stride;      // in numbers
  int64_t channel_stride;  // in numbers
};

// input: [N, n], or [N, C, n] with abs_mean
EntropyInput entropy_input(const Tensor& input, bool abs_mean) {
  const int64_t dims = abs_mean ? 3 : 2;
  STD_TORCH_CHECK(input.dim() == dims, "softmax_entropy_l1: x must have ", dims,
                  " dimensions, it has ", input.dim());
  const Element element = element_of("softmax_entropy_l1", input);
  const int64_t n = input.size(dims - 1);
  const int64_t channels = abs_mean ? input.size(1) : 0;
  STD_TORCH_CHECK(n > 0 && (!abs_mean || channels > 0),
                  "softmax_entropy_l1: x must have at least one entry per row");
  // Rows and channels may lie anywhere; entries must be neighbours.
  const Tensor x = n == 1 || input.stride(dims - 1) == 1 ? input : torch::stable::contiguous(input);
  return {x, element, x.size(0), n, channels, x.stride(0), abs_mean ? x.stride(1) : 0};
}

// [N] float64 on the device of x: a statistic, or what comes back to it.
RowNumbers row_numbers(const std::optional<Tensor>& numbers, const Tensor& x) {
  if (!numbers) return {nullptr, 0};
  STD_TORCH_CHECK(same_device(*numbers, x) && numbers->dim() == 1 &&
                      numbers->size(0) == x.size(0) &&
                      numbers->scalar_type() == torch::headeronly::ScalarType::Double,
                  "softmax_entropy_l1_backward: statistics and their gradients must be float64, "
                  "one for each row of x, on its device");
  return {static_cast<const double*>(numbers->const_data_ptr()), numbers->stride(0)};
}

// The shape of the gradient: that of the input, contiguous.
struct GradientShape {
  int64_t maps;        // of n numbers, in a row
  int64_t strides[3];  // as many as the input has dimensions
  explicit GradientShape(const EntropyInput& in)
      : maps(in.channels > 0 ? in.channels : 1),
        strides{maps * in.n, in.channels > 0 ? in.n : 1, 1} {}
};

}  // namespace
}  // namespace sdd
