// CUDA entries of conv_epilogue and its backward pass: checks, memory layout, room for the sums.
#include "conv_epilogue_cuda.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/device.h"
#include "conv_epilogue_torch.h"

namespace sdd {
namespace {

Tensor new_like(const Tensor& x, bool channels_last) {
  return new_on_device(4, x.sizes().data(), map_strides(x, channels_last).data(), dtype_of(x), x);
}

void check(const char* op, const Tensor& x, const std::optional<Tensor>& factor,
           const std::optional<Tensor>& noise, const std::optional<Tensor>& bias, int64_t act,
           double alpha, double gain, const std::optional<double>& clamp) {
  STD_TORCH_CHECK(on_device(x), op, ": this kernel takes CUDA tensors");
  check_epilogue(op, x, factor, noise, bias, act, alpha, gain, clamp);
}

// The call together with what it points to.
struct PreparedCall {
  EpilogueCuda call{};
  Tensor x;
  std::optional<Tensor> factor, noise, bias;

  PreparedCall(const char* op, const Tensor& input, const std::optional<Tensor>& factor_in,
               const std::optional<Tensor>& noise_in, const std::optional<Tensor>& bias_in,
               int64_t act, double alpha, double gain, const std::optional<double>& clamp)
      : x(arranged(input, is_channels_last(input), new_like)),
        factor(contiguous(factor_in)),
        noise(contiguous(noise_in)),
        bias(contiguous(bias_in)) {
    call.x = x.const_data_ptr();
    if (factor && factor->scalar_type() != x.scalar_type()) {
      call.wide_factor = static_cast<const float*>(factor->const_data_ptr());
    } else if (factor) {
      call.factor = factor->const_data_ptr();
    }
    call.noise = noise ? noise->const_data_ptr() : nullptr;
    call.bias = bias ? bias->const_data_ptr() : nullptr;
    call.element = element_of(op, x);
    call.act = static_cast<Act>(act);
    call.gain = gain;
    call.alpha = alpha;
    call.limit = limit_of(clamp);
    call.samples = x.size(0);
    call.channels = x.size(1);
    call.pixels = x.size(2) * x.size(3);
    call.noise_stride = noise && noise->size(0) > 1 ? call.pixels : 0;
    call.channels_last = is_channels_last(x);
  }

  static std::optional<Tensor> contiguous(const std::optional<Tensor>& t) {
    return !t || t->is_contiguous() ? t : torch::stable::contiguous(*t);
  }
};

// x: [N, O, H, W], factor: [N, O], noise: [1 or N, 1, H, W], bias: [O] -> [N, O, H, W], in the
// channels_last layout if x is, else contiguous
Tensor conv_epilogue(const Tensor& x, const std::optional<Tensor>& factor,
                     const std::optional<Tensor>& noise, const std::optional<Tensor>& bias,
                     int64_t act, double alpha, double gain, std::optional<double> clamp) {
  check("conv_epilogue", x, factor, noise, bias, act, alpha, gain, clamp);
  const OnDevice device(x);
  const Tensor out = new_like(x, is_channels_last(x));
  if (x.numel() == 0) return out;
  PreparedCall prepared("conv_epilogue", x, factor, noise, bias, act, alpha, gain, clamp);
  prepared.call.out = out.mutable_data_ptr();
  conv_epilogue_forward_cuda(prepared.call, device.stream());
  return out;
}

// The same, written over x, which must be dense in one of the two layouts.
void conv_epilogue_inplace(Tensor x, const std::optional<Tensor>& factor,
                           const std::optional<Tensor>& noise, const std::optional<Tensor>& bias,
                           int64_t act, double alpha, double gain, std::optional<double> clamp) {
  check("conv_epilogue_", x, factor, noise, bias, act, alpha, gain, clamp);
  check_epilogue_inplace(x);
  if (x.numel() == 0) return;
  const OnDevice device(x);
  PreparedCall prepared("conv_epilogue_", x, factor, noise, bias, act, alpha, gain, clamp);
  prepared.call.out = x.mutable_data_ptr();
  conv_epilogue_forward_cuda(prepared.call, device.stream());
}

// grad: like x, of the result -> x_grad: like x, factor_grad: [N, O], noise_grad: like noise,
// bias_grad: [O]; of the last three, those not wanted are empty
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_epilogue_backward(
    const Tensor& grad_in, const Tensor& x, const std::optional<Tensor>& factor,
    const std::optional<Tensor>& noise, const std::optional<Tensor>& bias, int64_t act,
    double alpha, double gain, std::optional<double> clamp, bool factor_grad, bool noise_grad,
    bool bias_grad) {
  const char* op = "conv_epilogue_backward";
  check(op, x, factor, noise, bias, act, alpha, gain, clamp);
  check_epilogue_backward(op, grad_in, x, factor, noise, bias, factor_grad, noise_grad, bias_grad);
  const OnDevice device(x);
  const bool channels_last = is_channels_last(x);
  const Tensor x_grad = new_like(x, channels_last);
  const int32_t dtype = dtype_of(x);
  Tensor factor_out = factor_grad ? new_on_device({x.size(0), x.size(1)}, dtype_of(*factor), x)
                                  : new_on_device({0}, dtype, x);
  Tensor noise_out = noise_grad ? new_on_device({noise->size(0), 1, x.size(2), x.size(3)}, dtype, x)
                                : new_on_device({0}, dtype, x);
  Tensor bias_out = new_on_device({bias_grad ? x.size(1) : 0}, dtype, x);
  if (x.numel() == 0) {
    for (Tensor* sum : {&factor_out, &noise_out, &bias_out}) torch::stable::zero_(*sum);
    return {x_grad, factor_out, noise_out, bias_out};
  }
  PreparedCall prepared(op, x, factor, noise, bias, act, alpha, gain, clamp);
  EpilogueCuda& call = prepared.call;
  const Tensor grad = arranged(grad_in, channels_last, new_like);
  call.grad = grad.const_data_ptr();
  call.out = x_grad.mutable_data_ptr();
  call.factor_grad = factor_grad ? factor_out.mutable_data_ptr() : nullptr;
  call.noise_grad = noise_grad ? noise_out.mutable_data_ptr() : nullptr;
  call.bias_grad = bias_grad ? bias_out.mutable_data_ptr() : nullptr;
  const Tensor parts = new_on_device({conv_epilogue_parts(call)}, aoti_torch_dtype_float64(), x);
  call.parts = static_cast<double*>(parts.mutable_data_ptr());
  conv_epilogue_backward_cuda(call, device.stream());
  return {x_grad, factor_out, noise_out, bias_out};
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, SDD_DEVICE_KEY, m) {
  m.impl("conv_epilogue", TORCH_BOX(&sdd::conv_epilogue));
  m.impl("conv_epilogue_", TORCH_BOX(&sdd::conv_epilogue_inplace));
  m.impl("conv_epilogue_backward", TORCH_BOX(&sdd::conv_epilogue_backward));
}
