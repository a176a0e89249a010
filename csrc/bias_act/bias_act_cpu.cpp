// CPU entries of bias_act and its backward pass: checks, memory layout, threads, and the sums that
// make the gradient of the bias.
#include "bias_act_cpu.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "../common/cpu_level.h"

namespace sdd {

void bias_act_portable(const BiasActCall&, int64_t, int64_t);
void bias_act_x86_64_v3(const BiasActCall&, int64_t, int64_t);
void bias_act_x86_64_v4(const BiasActCall&, int64_t, int64_t);

namespace {

// Rows are at least this long where they can be: shorter ones cost more in overhead than in work.
constexpr int64_t kShortRow = 16;
constexpr int64_t kLongRow = 256;

// Rows for the kernel; `repeats` copies of a period of channels * inner elements make a row where
// channels are not outside.
int64_t arrange(const Layout& layout, bool per_channel, BiasActCall* call) {
  call->channels = layout.channels;
  call->row_bias = true;
  call->length = call->numel;
  if (!per_channel) return 1;
  if (layout.inner >= kShortRow || layout.channels == 1) {
    call->length = layout.inner;
    if (layout.channels == 1) call->length = call->numel;
    return 1;
  }
  const int64_t period = layout.channels * layout.inner;
  const int64_t repeats =
      std::min((kLongRow + period - 1) / period, std::max<int64_t>(1, call->numel / period));
  call->row_bias = false;
  call->length = repeats * period;
  return repeats;
}

void check_common(const char* op, const Tensor& x, int64_t act, double alpha, double gain,
                  const std::optional<double>& clamp) {
  STD_TORCH_CHECK(x.is_cpu(), op, ": this kernel takes CPU tensors");
  STD_TORCH_CHECK(x.dim() >= 2, op, ": x must have at least 2 dimensions, it has ", x.dim());
  check_activation(op, act, alpha, gain, clamp);
}

void run(const BiasActCall& call) {
  const BiasActFn kernel = SDD_FOR_CPU_LEVEL(bias_act_);
  const int64_t tasks = bias_act_tasks(call.numel, call.length);
  if (tasks == 1 || call.numel <= kGrainElements) return kernel(call, 0, tasks);
  const int64_t grain =
      std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, call.numel / tasks));
  torch::stable::parallel_for(0, tasks, grain,
                              [&](int64_t begin, int64_t end) { kernel(call, begin, end); });
}

// x: [N, C, ...], bias: [C] -> [N, C, ...] with the strides of x if it is dense
Tensor bias_act(const Tensor& input, const std::optional<Tensor>& bias, int64_t act, double alpha,
                double gain, std::optional<double> clamp) {
  check_common("bias_act", input, act, alpha, gain, clamp);
  const Element element = element_of("bias_act", input);
  if (bias) {
    STD_TORCH_CHECK(bias->is_cpu() && bias->dim() == 1 && bias->size(0) == input.size(1),
                    "bias_act: b must be a CPU tensor with one value per channel of x");
    STD_TORCH_CHECK(bias->scalar_type() == input.scalar_type(),
                    "bias_act: b must have the dtype of x");
  }
  if (input.numel() == 0) return torch::stable::empty_like(input);
  const Layout layout = layout_of(input);
  const Tensor x = layout.dense ? input : torch::stable::clone(input);
  const Tensor out = layout.dense ? new_strided(x) : x;  // a clone of ours is overwritten

  BiasActCall call{};
  call.x = x.const_data_ptr();
  call.out = out.mutable_data_ptr();
  call.element = element;
  call.act = static_cast<Act>(act);
  call.gain = gain;
  call.alpha = alpha;
  call.limit = limit_of(clamp);
  call.numel = x.numel();
  const Layout order = layout.dense ? layout : layout_of(x);
  const int64_t repeats = arrange(order, bias.has_value(), &call);
  if (!bias) {
    run(call);
    return out;
  }
  const int64_t inner = call.row_bias ? 1 : order.inner;
  WideVector wide(*bias, inner, call.row_bias ? 1 : repeats);
  call.bias = wide.data();
  run(call);
  return out;
}

// grad, y (the result of bias_act): [N, C, ...] -> grad of x: [N, C, ...] with the strides of y,
// grad of b: [C], or [0] if it is not wanted
std::tuple<Tensor, Tensor> bias_act_backward(const Tensor& grad_in, const Tensor& y_in, int64_t act,
                                             double alpha, double gain, std::optional<double> clamp,
                                             bool bias_grad) {
  check_common("bias_act_backward", y_in, act, alpha, gain, clamp);
  const Element element = element_of("bias_act_backward", y_in);
  STD_TORCH_CHECK(
      grad_in.is_cpu() && grad_in.scalar_type() == y_in.scalar_type() && same_sizes(grad_in, y_in),
      "bias_act_backward: grad must be like y: shape, dtype and device");
  const Tensor grad_b = new_contiguous({bias_grad ? y_in.size(1) : 0}, y_in);
  if (y_in.numel() == 0) {
    store(std::vector<double>(grad_b.numel()).data(), grad_b);
    return {torch::stable::empty_like(y_in), grad_b};
  }
  Layout layout = layout_of(y_in);
  const Tensor y = layout.dense ? y_in : torch::stable::clone(y_in);
  if (!layout.dense) layout = layout_of(y);
  Tensor grad = grad_in;
  if (!same_strides(grad, y)) {
    grad = new_strided(y);
    torch::stable::copy_(grad, grad_in);
  }
  const Tensor out = new_strided(y);

  BiasActCall call{};
  call.x = grad.const_data_ptr();
  call.y = y.const_data_ptr();
  call.out = out.mutable_data_ptr();
  call.element = element;
  call.act = static_cast<Act>(act);
  call.gain = gain;
  call.alpha = alpha;
  call.limit = limit_of(clamp);
  call.numel = y.numel();
  arrange(layout, bias_grad, &call);
  if (!bias_grad) {
    run(call);
    return {out, grad_b};
  }
  const int64_t count = bias_act_sums(call.numel, call.length, call.row_bias);
  const std::unique_ptr<double[]> sums(new double[count]());
  call.sums = sums.get();
  run(call);

  std::vector<double> total(layout.channels);
  const int64_t pieces = bias_act_pieces(call.length);
  const int64_t inner = call.row_bias ? pieces : layout.inner;
  for (int64_t i = 0; i < count;) {  // [outer][channels][inner]
    for (int64_t c = 0; c < layout.channels && i < count; ++c) {
      for (int64_t k = 0; k < inner; ++k) total[c] += sums[i++];
    }
  }
  store(total.data(), grad_b);
  return {out, grad_b};
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CPU, m) {
  m.impl("bias_act", TORCH_BOX(&sdd::bias_act));
  m.impl("bias_act_backward", TORCH_BOX(&sdd::bias_act_backward));
}
