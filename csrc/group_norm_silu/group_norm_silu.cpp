// group_norm_silu and the gradient of its input for torch: checks, memory layout, results.
#include <tuple>

#include "../common/device.h"
#include "group_norm_silu_kernel.h"

namespace sdd {
namespace {

bool channels_last(const Tensor& x) { return x.dim() == 4 && is_channels_last(x); }

// x, or a copy of it: channels_last or contiguous.
Tensor in_layout(const Tensor& x, bool last) {
  if (!last) return as_contiguous(x);
  using torch::headeronly::MemoryFormat;
  return channels_last(x) ? x : torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
}

void check(const char* op, const Tensor& x, int64_t groups, const Tensor& weight,
           const Tensor& bias) {
  STD_TORCH_CHECK(x.dim() >= 2, op, ": x must have at least 2 dimensions, it has ", x.dim());
  STD_TORCH_CHECK(groups >= 1 && x.size(1) % groups == 0, op,
                  ": num_groups must be positive and divide the channels of x, got ", groups);
  for (const Tensor* p : {&weight, &bias}) {
    STD_TORCH_CHECK(same_device(*p, x) && p->dim() == 1 && p->size(0) == x.size(1), op,
                    ": weight and bias must be on the device of x, with one value per channel");
    STD_TORCH_CHECK(
        p->scalar_type() == weight.scalar_type() &&
            (p->scalar_type() == x.scalar_type() ||
             (p->scalar_type() == ScalarType::Float && x.scalar_type() != ScalarType::Double)),
        op, ": weight and bias must have the dtype of x, or be float32 beside 16 bits");
  }
}

// What the passes need to know of x, which is not empty; the tensors must outlive it.
GroupNorm call_of(const Tensor& x, bool last, const Tensor& weight, const Tensor& bias,
                  const Tensor& mean, const Tensor& rstd, bool silu) {
  GroupNorm c{};
  c.x = x.const_data_ptr();
  c.weight = weight.const_data_ptr();
  c.bias = bias.const_data_ptr();
  c.mean = static_cast<double*>(mean.mutable_data_ptr());
  c.rstd = static_cast<double*>(rstd.mutable_data_ptr());
  c.element = element_of("group_norm_silu", x);
  c.parameter_element = element_of("group_norm_silu", weight);
  c.silu = silu;
  c.samples = x.size(0);
  c.channels = x.size(1);
  c.pixels = x.numel() / (c.samples * c.channels);
  c.groups = mean.size(1);
  c.cotangents = 1;
  c.channels_inside = last || c.pixels == 1;
  return c;
}

void run(GroupNorm& c, const Tensor& x) {
  on_device_of(
      x, [&] { group_norm_silu_cpu(c); },
      [&](void* stream) {
        const int64_t size = group_norm_silu_workspace(c);
        const Tensor workspace = new_contiguous({size}, aoti_torch_dtype_float64(), x);
        c.workspace = static_cast<double*>(workspace.mutable_data_ptr());
        group_norm_silu_cuda(c, stream);
      });
}

// x: [N, C, ...], weight, bias: [C] -> y: [N, C, ...], mean, rstd: [N, G]
std::tuple<Tensor, Tensor, Tensor> group_norm_silu(const Tensor& input, int64_t num_groups,
                                                   const Tensor& weight_in, const Tensor& bias_in,
                                                   double eps, bool silu) {
  const char* op = "group_norm_silu";
  element_of(op, input);
  check(op, input, num_groups, weight_in, bias_in);
  STD_TORCH_CHECK(eps >= 0 && eps <= 1, op, ": eps must lie in [0, 1], got ", eps);
  const bool last = channels_last(input);
  const Tensor x = in_layout(input, last);
  const Tensor weight = as_contiguous(weight_in), bias = as_contiguous(bias_in);
  const Tensor y = new_like(x);
  const auto statistics = [&] {
    return new_contiguous({x.size(0), num_groups}, aoti_torch_dtype_float64(), x);
  };
  Tensor mean = statistics(), rstd = statistics();
  if (x.numel() == 0) {
    torch::stable::zero_(mean);
    torch::stable::zero_(rstd);
    return {y, mean, rstd};
  }
  GroupNorm c = call_of(x, last, weight, bias, mean, rstd, silu);
  c.out = y.mutable_data_ptr();
  c.eps = eps;
  run(c, x);
  return {y, mean, rstd};
}

// grad: [K N, C, ...], K cotangents, x: [N, C, ...], mean, rstd: [N, G], weight, bias: [C]
// -> gradient of x: [K N, C, ...]
Tensor group_norm_silu_backward(const Tensor& grad_in, const Tensor& input, const Tensor& mean,
                                const Tensor& rstd, const Tensor& weight_in, const Tensor& bias_in,
                                bool silu) {
  const char* op = "group_norm_silu_backward";
  element_of(op, input);
  for (const Tensor* t : {&mean, &rstd}) {
    STD_TORCH_CHECK(same_device(*t, input) && t->dim() == 2 &&
                        t->scalar_type() == ScalarType::Double && same_sizes(*t, mean) &&
                        t->is_contiguous() && t->size(0) == input.size(0),
                    op, ": mean and rstd must be [N, G], float64, contiguous, of the device of x");
  }
  check(op, input, mean.size(1), weight_in, bias_in);
  STD_TORCH_CHECK(
      same_device(grad_in, input) && grad_in.scalar_type() == input.scalar_type() &&
          grad_in.dim() == input.dim() &&
          std::equal(grad_in.sizes().begin() + 1, grad_in.sizes().end(),
                     input.sizes().begin() + 1) &&
          (input.size(0) == 0 ? grad_in.size(0) == 0 : grad_in.size(0) % input.size(0) == 0),
      op, ": grad must be like x, a multiple of its samples");
  const bool last = channels_last(input);
  const Tensor x = in_layout(input, last), grad = in_layout(grad_in, last);
  const Tensor weight = as_contiguous(weight_in), bias = as_contiguous(bias_in);
  const Tensor out = new_like(grad);
  if (grad.numel() == 0) return out;
  GroupNorm c = call_of(x, last, weight, bias, mean, rstd, silu);
  c.grad = grad.const_data_ptr();
  c.out = out.mutable_data_ptr();
  c.cotangents = grad.size(0) / c.samples;
  run(c, x);
  return out;
}

template <class Library>
void define(Library& m) {
  m.impl("group_norm_silu", TORCH_BOX(&group_norm_silu));
  m.impl("group_norm_silu_backward", TORCH_BOX(&group_norm_silu_backward));
}

}  // namespace
}  // namespace sdd

SDD_REGISTER_KERNELS(sdd::define)
