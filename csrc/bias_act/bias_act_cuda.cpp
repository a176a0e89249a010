// CUDA entries of bias_act and its backward pass: checks, memory layout, room for the sums.
#include "bias_act_cuda.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../common/device.h"
#include "bias_act_torch.h"

namespace sdd {
namespace {

BiasActCuda call_of(const char* op, const Tensor& x, int64_t act, double alpha, double gain,
                    const std::optional<double>& clamp, const Layout& layout) {
  BiasActCuda call{};
  call.element = element_of(op, x);
  call.act = static_cast<Act>(act);
  call.gain = gain;
  call.alpha = alpha;
  call.limit = limit_of(clamp);
  call.channels = layout.channels;
  call.inner = layout.inner;
  call.outer = x.numel() / (layout.channels * layout.inner);
  return call;
}

void check_common(const char* op, const Tensor& x, int64_t act, double alpha, double gain,
                  const std::optional<double>& clamp) {
  STD_TORCH_CHECK(on_device(x), op, ": this kernel takes CUDA tensors");
  STD_TORCH_CHECK(x.dim() >= 2, op, ": x must have at least 2 dimensions, it has ", x.dim());
  check_activation(op, act, alpha, gain, clamp);
}

Tensor new_like(const Tensor& x) {
  return new_on_device(x.dim(), x.sizes().data(), x.strides().data(), dtype_of(x), x);
}

// x: [N, C, ...], bias: [C] -> [N, C, ...] with the strides of x if it is dense
Tensor bias_act(const Tensor& input, const std::optional<Tensor>& bias, int64_t act, double alpha,
                double gain, std::optional<double> clamp) {
  check_common("bias_act", input, act, alpha, gain, clamp);
  if (bias) {
    STD_TORCH_CHECK(same_device(*bias, input) && bias->dim() == 1 && bias->size(0) == input.size(1),
                    "bias_act: b must be on the device of x, with one value per channel of x");
    STD_TORCH_CHECK(bias->scalar_type() == input.scalar_type(),
                    "bias_act: b must have the dtype of x");
  }
  if (input.numel() == 0) return torch::stable::empty_like(input);
  const OnDevice device(input);
  const Tensor x = layout_of(input).dense ? input : torch::stable::clone(input);
  const Tensor out = new_like(x);
  BiasActCuda call = call_of("bias_act", x, act, alpha, gain, clamp, layout_of(x));
  call.x = x.const_data_ptr();
  call.out = out.mutable_data_ptr();
  Tensor b = input;
  if (bias) {
    b = bias->is_contiguous() ? *bias : torch::stable::contiguous(*bias);
    call.bias = b.const_data_ptr();
  }
  bias_act_forward_cuda(call, device.stream());
  return out;
}

// grad, y (the result of bias_act): [N, C, ...] -> grad of x: [N, C, ...] with the strides of y,
// grad of b: [C], or [0] if it is not wanted
std::tuple<Tensor, Tensor> bias_act_backward(const Tensor& grad_in, const Tensor& y_in, int64_t act,
                                             double alpha, double gain, std::optional<double> clamp,
                                             bool bias_grad) {
  check_common("bias_act_backward", y_in, act, alpha, gain, clamp);
  STD_TORCH_CHECK(same_device(grad_in, y_in) && grad_in.scalar_type() == y_in.scalar_type() &&
                      same_sizes(grad_in, y_in),
                  "bias_act_backward: grad must be like y: shape, dtype and device");
  const OnDevice device(y_in);
  Tensor b_grad = new_on_device({bias_grad ? y_in.size(1) : 0}, dtype_of(y_in), y_in);
  if (y_in.numel() == 0) {
    torch::stable::zero_(b_grad);
    return {torch::stable::empty_like(y_in), b_grad};
  }
  const Tensor y = layout_of(y_in).dense ? y_in : torch::stable::clone(y_in);
  Tensor grad = grad_in;
  if (!same_strides(grad, y)) {
    grad = new_like(y);
    torch::stable::copy_(grad, grad_in);
  }
  const Tensor out = new_like(y);
  BiasActCuda call = call_of("bias_act_backward", y, act, alpha, gain, clamp, layout_of(y));
  call.x = grad.const_data_ptr();
  call.y = y.const_data_ptr();
  call.out = out.mutable_data_ptr();
  Tensor parts = b_grad;
  if (bias_grad) {
    parts = new_on_device({bias_act_parts(call.outer, call.channels, call.inner)},
                          aoti_torch_dtype_float64(), y);
    call.parts = static_cast<double*>(parts.mutable_data_ptr());
    call.bias_grad = b_grad.mutable_data_ptr();
  }
  bias_act_backward_cuda(call, device.stream());
  return {out, b_grad};
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, SDD_DEVICE_KEY, m) {
  m.impl("bias_act", TORCH_BOX(&sdd::bias_act));
  m.impl("bias_act_backward", TORCH_BOX(&sdd::bias_act_backward));
}
