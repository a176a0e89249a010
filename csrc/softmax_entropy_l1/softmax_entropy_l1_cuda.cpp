// CUDA entries of softmax_entropy_l1 and its gradient: checks, memory.
#include "softmax_entropy_l1_cuda.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/device.h"
#include "softmax_entropy_l1_torch.h"

namespace sdd {
namespace {

// x: [N, n], or [N, C, n] with abs_mean -> entropy, l1, deficit, log_mean_exp: [N] float64
std::tuple<Tensor, Tensor, Tensor, Tensor> softmax_entropy_l1(const Tensor& input, bool abs_mean) {
  STD_TORCH_CHECK(on_device(input), "softmax_entropy_l1: this kernel takes CUDA tensors");
  const OnDevice device(input);
  const EntropyInput in = entropy_input(input, abs_mean);
  const auto new_numbers = [&](int64_t count) {
    return new_on_device({count}, aoti_torch_dtype_float64(), input);
  };
  const Tensor entropy = new_numbers(in.rows), l1 = new_numbers(in.rows);
  const Tensor deficit = new_numbers(in.rows), log_mean_exp = new_numbers(in.rows);
  if (in.rows == 0) return {entropy, l1, deficit, log_mean_exp};

  const Tensor room = new_numbers(entropy_room(in.element, abs_mean, in.rows, in.n));
  const auto data = [](const Tensor& t) { return static_cast<double*>(t.mutable_data_ptr()); };
  softmax_entropy_l1_cuda(
      {in.x.const_data_ptr(), in.element, in.rows, in.n, in.channels, in.row_stride,
       in.channel_stride, data(room), data(entropy), data(l1), data(deficit), data(log_mean_exp)},
      device.stream());
  return {entropy, l1, deficit, log_mean_exp};
}

// The gradient of the result of softmax_entropy_l1(x, abs_mean), of which deficit and log_mean_exp
// are two; grad_...: what comes back to each, [N] float64 -> contiguous, like x
Tensor softmax_entropy_l1_backward(const std::optional<Tensor>& grad_entropy,
                                   const std::optional<Tensor>& grad_l1,
                                   const std::optional<Tensor>& grad_deficit,
                                   const std::optional<Tensor>& grad_log_mean_exp,
                                   const Tensor& input, const Tensor& deficit,
                                   const Tensor& log_mean_exp, bool abs_mean) {
  STD_TORCH_CHECK(on_device(input), "softmax_entropy_l1_backward: this kernel takes CUDA tensors");
  const OnDevice device(input);
  const EntropyInput in = entropy_input(input, abs_mean);
  const GradientRows rows{row_numbers(deficit, input),      row_numbers(log_mean_exp, input),
                          row_numbers(grad_entropy, input), row_numbers(grad_l1, input),
                          row_numbers(grad_deficit, input), row_numbers(grad_log_mean_exp, input)};
  const GradientShape shape(in);
  const Tensor grad =
      new_on_device(input.dim(), input.sizes().data(), shape.strides, dtype_of(input), input);
  if (in.rows == 0) return grad;
  softmax_entropy_l1_backward_cuda(
      {in.x.const_data_ptr(), in.element, in.rows, in.n, in.channels, in.row_stride,
       in.channel_stride, grad.mutable_data_ptr(), rows},
      device.stream());
  return grad;
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, SDD_DEVICE_KEY, m) {
  m.impl("softmax_entropy_l1", TORCH_BOX(&sdd::softmax_entropy_l1));
  m.impl("softmax_entropy_l1_backward", TORCH_BOX(&sdd::softmax_entropy_l1_backward));
}
