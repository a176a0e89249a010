// bias_act and its backward pass for torch: checks, memory layout, results.
#include <algorithm>
#include <tuple>
#include <vector>

#include "../common/activation_arguments.h"
#include "../common/device.h"
#include "bias_act_kernel.h"

namespace sdd {
namespace {

// A dense tensor [N, C, ...] of any order of dimensions in memory: [outer, C, inner].
struct Layout {
  bool dense = false;
  int64_t inner = 1;
};

Layout layout_of(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  if (x.is_contiguous()) {
    int64_t inner = 1;
    for (int64_t d = 2; d < x.dim(); ++d) inner *= sizes[d];
    return {true, inner};
  }
  std::vector<int64_t> order;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (sizes[d] != 1) order.push_back(d);
  }
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (const int64_t d : order) {
    if (strides[d] != expected) return {};
    expected *= sizes[d];
  }
  return {true, sizes[1] > 1 ? strides[1] : 1};
}

// x, or a dense copy.
Tensor dense(const Tensor& x) { return layout_of(x).dense ? x : torch::stable::clone(x); }

// x: [N, C, ...], dense and not empty
BiasAct call_of(const Tensor& x, Element element, const Activation& activation) {
  BiasAct call{};
  call.x = x.const_data_ptr();
  call.element = element;
  call.activation = activation;
  call.channels = x.size(1);
  call.inner = layout_of(x).inner;
  call.outer = x.numel() / (call.channels * call.inner);
  return call;
}

void check_dimensions(const char* op, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2, op, ": x must have at least 2 dimensions, it has ", x.dim());
}

// x: [N, C, ...], bias: [C] -> [N, C, ...] with the strides of x if it is dense
Tensor bias_act(const Tensor& input, const std::optional<Tensor>& bias, int64_t act, double alpha,
                double gain, std::optional<double> clamp) {
  check_dimensions("bias_act", input);
  const Activation activation = activation_of("bias_act", act, alpha, gain, clamp);
  const Element element = element_of("bias_act", input);
  if (bias) {
    STD_TORCH_CHECK(same_device(*bias, input) && bias->dim() == 1 && bias->size(0) == input.size(1),
                    "bias_act: b must be on the device of x, with one value per channel of x");
    STD_TORCH_CHECK(bias->scalar_type() == input.scalar_type(),
                    "bias_act: b must have the dtype of x");
  }
  if (input.numel() == 0) return torch::stable::empty_like(input);
  const Tensor x = dense(input);
  const Tensor out = x.get() == input.get() ? new_like(x) : x;  // a copy of ours is overwritten
  const std::optional<Tensor> b = as_contiguous(bias);
  BiasAct call = call_of(x, element, activation);
  call.bias = b ? b->const_data_ptr() : nullptr;
  call.out = out.mutable_data_ptr();
  on_device_of(x, [&] { bias_act_cpu(call); }, [&](void* stream) { bias_act_cuda(call, stream); });
  return out;
}

// grad, y (the result of bias_act): [N, C, ...] -> grad of x: [N, C, ...] with the strides of y,
// grad of b: [C], or [0] if it is not wanted
std::tuple<Tensor, Tensor> bias_act_backward(const Tensor& grad_in, const Tensor& y_in, int64_t act,
                                             double alpha, double gain, std::optional<double> clamp,
                                             bool bias_grad) {
  check_dimensions("bias_act_backward", y_in);
  const Activation activation = activation_of("bias_act_backward", act, alpha, gain, clamp);
  const Element element = element_of("bias_act_backward", y_in);
  STD_TORCH_CHECK(alike(grad_in, y_in),
                  "bias_act_backward: grad must be like y: shape, dtype and device");
  Tensor b_grad = new_contiguous({bias_grad ? y_in.size(1) : 0}, dtype_of(y_in), y_in);
  if (y_in.numel() == 0) {
    torch::stable::zero_(b_grad);
    return {torch::stable::empty_like(y_in), b_grad};
  }
  const Tensor y = dense(y_in);
  Tensor grad = grad_in;
  if (!same_strides(grad, y)) {
    grad = new_like(y);
    torch::stable::copy_(grad, grad_in);
  }
  const Tensor out = new_like(y);
  BiasAct call = call_of(grad, element, activation);
  call.y = y.const_data_ptr();
  call.out = out.mutable_data_ptr();
  if (bias_grad) call.bias_grad = b_grad.mutable_data_ptr();
  on_device_of(
      y, [&] { bias_act_cpu(call); },
      [&](void* stream) {
        Tensor workspace = b_grad;
        if (bias_grad) {
          const int64_t size = bias_act_workspace(call.outer, call.channels, call.inner);
          workspace = new_contiguous({size}, aoti_torch_dtype_float64(), y);
          call.workspace = static_cast<double*>(workspace.mutable_data_ptr());
        }
        bias_act_cuda(call, stream);
      });
  return {out, b_grad};
}

template <class Library>
void define(Library& m) {
  m.impl("bias_act", TORCH_BOX(&bias_act));
  m.impl("bias_act_backward", TORCH_BOX(&bias_act_backward));
}

}  // namespace
}  // namespace sdd

SDD_REGISTER_KERNELS(sdd::define)
