// conv_epilogue and its backward pass for torch: checks, the two layouts of feature maps, results.
#include <array>
#include <tuple>

#include "../common/activation_arguments.h"
#include "../common/device.h"
#include "conv_epilogue_kernel.h"

namespace sdd {
namespace {

using MaybeTensor = std::optional<Tensor>;

// A new tensor of the shape of x.
Tensor new_maps(const Tensor& x, bool channels_last) {
  const auto s = x.sizes();
  const int64_t channels = std::max<int64_t>(1, s[1]), height = std::max<int64_t>(1, s[2]);
  const int64_t width = std::max<int64_t>(1, s[3]), all = channels * height * width;
  const std::array<int64_t, 4> strides =
      channels_last ? std::array<int64_t, 4>{all, 1, width * channels, channels}
                    : std::array<int64_t, 4>{all, height * width, width, 1};
  return new_strided(4, s.data(), strides.data(), dtype_of(x), x);
}

// x if it has that layout, else a copy.
Tensor arranged(const Tensor& x, bool channels_last) {
  if (channels_last ? is_channels_last(x) : x.is_contiguous()) return x;
  Tensor copy = new_maps(x, channels_last);
  torch::stable::copy_(copy, x);
  return copy;
}

void check(const char* op, const Tensor& x, const MaybeTensor& factor, const MaybeTensor& noise,
           const MaybeTensor& bias) {
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
}

// The call together with what it points to.
struct PreparedCall {
  Epilogue call{};
  Tensor x;
  MaybeTensor factor, noise, bias;

  PreparedCall(const char* op, const Tensor& input, const MaybeTensor& factor_in,
               const MaybeTensor& noise_in, const MaybeTensor& bias_in,
               const Activation& activation)
      : x(arranged(input, is_channels_last(input))),
        factor(as_contiguous(factor_in)),
        noise(as_contiguous(noise_in)),
        bias(as_contiguous(bias_in)) {
    call.x = x.const_data_ptr();
    call.factor = factor ? factor->const_data_ptr() : nullptr;
    call.noise = noise ? noise->const_data_ptr() : nullptr;
    call.bias = bias ? bias->const_data_ptr() : nullptr;
    call.element = element_of(op, x);
    call.factor_element = factor ? element_of(op, *factor) : call.element;
    call.activation = activation;
    call.samples = x.size(0);
    call.channels = x.size(1);
    call.pixels = x.size(2) * x.size(3);
    call.noise_stride = noise && noise->size(0) > 1 ? call.pixels : 0;
    call.channels_last = is_channels_last(x);
  }

  void run() {
    MaybeTensor workspace;
    on_device_of(
        x, [&] { conv_epilogue_cpu(call); },
        [&](void* stream) {
          if (call.grad != nullptr) {
            workspace =
                new_contiguous({conv_epilogue_workspace(call)}, aoti_torch_dtype_float64(), x);
            call.workspace = static_cast<double*>(workspace->mutable_data_ptr());
          }
          conv_epilogue_cuda(call, stream);
        });
  }
};

// x: [N, O, H, W], factor: [N, O], noise: [1 or N, 1, H, W], bias: [O] -> [N, O, H, W], in the
// channels_last layout if x is, else contiguous
Tensor conv_epilogue(const Tensor& x, const MaybeTensor& factor, const MaybeTensor& noise,
                     const MaybeTensor& bias, int64_t act, double alpha, double gain,
                     std::optional<double> clamp) {
  const char* op = "conv_epilogue";
  check(op, x, factor, noise, bias);
  PreparedCall prepared(op, x, factor, noise, bias, activation_of(op, act, alpha, gain, clamp));
  Tensor out = new_maps(x, prepared.call.channels_last);
  prepared.call.out = out.mutable_data_ptr();
  if (x.numel() > 0) prepared.run();
  return out;
}

// The same, written over x, which must be dense in one of the two layouts.
void conv_epilogue_inplace(Tensor x, const MaybeTensor& factor, const MaybeTensor& noise,
                           const MaybeTensor& bias, int64_t act, double alpha, double gain,
                           std::optional<double> clamp) {
  const char* op = "conv_epilogue_";
  check(op, x, factor, noise, bias);
  STD_TORCH_CHECK(x.is_contiguous() || is_channels_last(x),
                  "conv_epilogue_: x must be contiguous or channels_last");
  PreparedCall prepared(op, x, factor, noise, bias, activation_of(op, act, alpha, gain, clamp));
  prepared.call.out = x.mutable_data_ptr();
  if (x.numel() > 0) prepared.run();
}

// grad: like x, of the result -> x_grad: like x, factor_grad: [N, O], noise_grad: like noise,
// bias_grad: [O]; of the last three, those not wanted are empty
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_epilogue_backward(
    const Tensor& grad_in, const Tensor& x, const MaybeTensor& factor, const MaybeTensor& noise,
    const MaybeTensor& bias, int64_t act, double alpha, double gain, std::optional<double> clamp,
    bool factor_grad, bool noise_grad, bool bias_grad) {
  const char* op = "conv_epilogue_backward";
  check(op, x, factor, noise, bias);
  STD_TORCH_CHECK(alike(grad_in, x), op, ": grad must be like x: shape, dtype and device");
  STD_TORCH_CHECK((factor || !factor_grad) && (noise || !noise_grad) && (bias || !bias_grad), op,
                  ": a gradient is wanted of something that is not there");
  PreparedCall prepared(op, x, factor, noise, bias, activation_of(op, act, alpha, gain, clamp));
  Epilogue& call = prepared.call;
  const Tensor grad = arranged(grad_in, call.channels_last);
  const Tensor x_grad = new_maps(x, call.channels_last);
  const int32_t dtype = dtype_of(x);
  Tensor factor_out = factor_grad ? new_contiguous({x.size(0), x.size(1)}, dtype_of(*factor), x)
                                  : new_contiguous({0}, dtype, x);
  Tensor noise_out = noise_grad
                         ? new_contiguous({noise->size(0), 1, x.size(2), x.size(3)}, dtype, x)
                         : new_contiguous({0}, dtype, x);
  Tensor bias_out = new_contiguous({bias_grad ? x.size(1) : 0}, dtype, x);
  if (x.numel() == 0) {
    for (Tensor* sum : {&factor_out, &noise_out, &bias_out}) torch::stable::zero_(*sum);
    return {x_grad, factor_out, noise_out, bias_out};
  }
  call.grad = grad.const_data_ptr();
  call.out = x_grad.mutable_data_ptr();
  call.factor_grad = factor_grad ? factor_out.mutable_data_ptr() : nullptr;
  call.noise_grad = noise_grad ? noise_out.mutable_data_ptr() : nullptr;
  call.bias_grad = bias_grad ? bias_out.mutable_data_ptr() : nullptr;
  prepared.run();
  return {x_grad, factor_out, noise_out, bias_out};
}

template <class Library>
void define(Library& m) {
  m.impl("conv_epilogue", TORCH_BOX(&conv_epilogue));
  m.impl("conv_epilogue_", TORCH_BOX(&conv_epilogue_inplace));
  m.impl("conv_epilogue_backward", TORCH_BOX(&conv_epilogue_backward));
}

}  // namespace
}  // namespace sdd

SDD_REGISTER_KERNELS(sdd::define)
