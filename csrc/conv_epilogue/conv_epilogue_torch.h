// What the CPU and the CUDA entries of conv_epilogue share: checks, and the two layouts of feature
// maps. Against the stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <array>

#include "../bias_act/bias_act_torch.h"

namespace sdd {
namespace {

// [N, O, H, W] either way; a tensor that is both counts as contiguous.
bool is_channels_last(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t expected[] = {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]};
  for (int d = 0; d < 4; ++d) {
    if (sizes[d] != 1 && strides[d] != expected[d]) return false;
  }
  return !x.is_contiguous();
}

// Strides of a new tensor of the shape of x.
std::array<int64_t, 4> map_strides(const Tensor& x, bool channels_last) {
  const auto s = x.sizes();
  if (channels_last) return {s[1] * s[2] * s[3], 1, s[1] * s[3], s[1]};
  const auto at_least_1 = [](int64_t size) { return std::max<int64_t>(1, size); };
  const int64_t w = at_least_1(s[3]), hw = at_least_1(s[2]) * w;
  return {at_least_1(s[1]) * hw, hw, w, 1};
}

// x as it is if it already has that layout, else a copy in the tensor that new_like(x,
// channels_last) makes.
template <class NewLike>
Tensor arranged(const Tensor& x, bool channels_last, const NewLike& new_like) {
  if (channels_last ? is_channels_last(x) : x.is_contiguous()) return x;
  Tensor copy = new_like(x, channels_last);
  torch::stable::copy_(copy, x);
  return copy;
}

void check_epilogue(const char* op, const Tensor& x, const std::optional<Tensor>& factor,
                    const std::optional<Tensor>& noise, const std::optional<Tensor>& bias,
                    int64_t act, double alpha, double gain, const std::optional<double>& clamp) {
  STD_TORCH_CHECK(x.dim() == 4, op, ": x must be [N, O, H, W], it has ", x.dim(), " dimensions");
  const auto s = x.sizes();
  if (factor) {
    STD_TORCH_CHECK(same_device(*factor, x) && factor->dim() == 2 && factor->size(0) == s[0] &&
                        factor->size(1) == s[1],
                    op, ": factor must be [N, O], on the device of x");
    STD_TORCH_CHECK(
        factor->scalar_type() == x.scalar_type() ||
            (factor->scalar_type() == ScalarType::Float && x.scalar_type() != ScalarType::Double),
        op, ": factor must have the dtype of x, or be float32 with 16-bit x");
  }
  if (noise) {
    STD_TORCH_CHECK(same_device(*noise, x) && noise->dim() == 4 &&
                        (noise->size(0) == 1 || noise->size(0) == s[0]) && noise->size(1) == 1 &&
                        noise->size(2) == s[2] && noise->size(3) == s[3],
                    op, ": noise must be [1 or N, 1, H, W], on the device of x");
    STD_TORCH_CHECK(noise->scalar_type() == x.scalar_type(), op, ": noise must have x's dtype");
  }
  if (bias) {
    STD_TORCH_CHECK(same_device(*bias, x) && bias->dim() == 1 && bias->size(0) == s[1], op,
                    ": bias must be [O], on the device of x");
    STD_TORCH_CHECK(bias->scalar_type() == x.scalar_type(), op, ": bias must have x's dtype");
  }
  check_activation(op, act, alpha, gain, clamp);
  element_of(op, x);
}

void check_epilogue_inplace(const Tensor& x) {
  STD_TORCH_CHECK(x.is_contiguous() || is_channels_last(x),
                  "conv_epilogue_: x must be contiguous or channels_last");
}

void check_epilogue_backward(const char* op, const Tensor& grad, const Tensor& x,
                             const std::optional<Tensor>& factor,
                             const std::optional<Tensor>& noise, const std::optional<Tensor>& bias,
                             bool factor_grad, bool noise_grad, bool bias_grad) {
  STD_TORCH_CHECK(
      same_device(grad, x) && same_sizes(grad, x) && grad.scalar_type() == x.scalar_type(), op,
      ": grad must be like x: shape, dtype and device");
  STD_TORCH_CHECK((factor || !factor_grad) && (noise || !noise_grad) && (bias || !bias_grad), op,
                  ": a gradient is wanted of something that is not there");
}

}  // namespace
}  // namespace sdd
