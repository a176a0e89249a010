// CPU entries of conv_epilogue and its backward pass: checks, memory layout, threads, and the sums
// that make the gradients of factor, noise and bias.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "../bias_act/bias_act_cpu.h"
#include "../common/cpu_level.h"
#include "conv_epilogue_kernel.h"

namespace sdd {

void conv_epilogue_portable(const EpilogueCall&, int64_t, int64_t);
void conv_epilogue_x86_64_v3(const EpilogueCall&, int64_t, int64_t);
void conv_epilogue_x86_64_v4(const EpilogueCall&, int64_t, int64_t);

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

Tensor new_like(const Tensor& x, bool channels_last) {
  const auto s = x.sizes();
  if (!channels_last) return new_contiguous({s[0], s[1], s[2], s[3]}, x);
  const int64_t strides[] = {s[1] * s[2] * s[3], 1, s[1] * s[3], s[1]};
  return new_tensor(4, s.data(), strides, x);
}

// x as it is if it already has that layout.
Tensor arranged(const Tensor& x, bool channels_last) {
  if (channels_last ? is_channels_last(x) : x.is_contiguous()) return x;
  const Tensor copy = new_like(x, channels_last);
  torch::stable::copy_(const_cast<Tensor&>(copy), x);
  return copy;
}

void check(const char* op, const Tensor& x, const std::optional<Tensor>& factor,
           const std::optional<Tensor>& noise, const std::optional<Tensor>& bias, int64_t act,
           double alpha, double gain, const std::optional<double>& clamp) {
  STD_TORCH_CHECK(x.is_cpu(), op, ": this kernel takes CPU tensors");
  STD_TORCH_CHECK(x.dim() == 4, op, ": x must be [N, O, H, W], it has ", x.dim(), " dimensions");
  const auto s = x.sizes();
  if (factor) {
    STD_TORCH_CHECK(factor->is_cpu() && factor->dim() == 2 && factor->size(0) == s[0] &&
                        factor->size(1) == s[1],
                    op, ": factor must be a CPU tensor [N, O]");
    STD_TORCH_CHECK(
        factor->scalar_type() == x.scalar_type() ||
            (factor->scalar_type() == ScalarType::Float && x.scalar_type() != ScalarType::Double),
        op, ": factor must have the dtype of x, or be float32 with 16-bit x");
  }
  if (noise) {
    STD_TORCH_CHECK(noise->is_cpu() && noise->dim() == 4 &&
                        (noise->size(0) == 1 || noise->size(0) == s[0]) && noise->size(1) == 1 &&
                        noise->size(2) == s[2] && noise->size(3) == s[3],
                    op, ": noise must be a CPU tensor [1 or N, 1, H, W]");
    STD_TORCH_CHECK(noise->scalar_type() == x.scalar_type(), op, ": noise must have x's dtype");
  }
  if (bias) {
    STD_TORCH_CHECK(bias->is_cpu() && bias->dim() == 1 && bias->size(0) == s[1], op,
                    ": bias must be a CPU tensor [O]");
    STD_TORCH_CHECK(bias->scalar_type() == x.scalar_type(), op, ": bias must have x's dtype");
  }
  check_activation(op, act, alpha, gain, clamp);
  element_of(op, x);
}

// The call together with what it points to.
struct PreparedCall {
  EpilogueCall call{};
  bool channels_last;
  Tensor x, noise;
  WideVector factor, bias;

  PreparedCall(const char* op, const Tensor& input, const std::optional<Tensor>& factor_in,
               const std::optional<Tensor>& noise_in, const std::optional<Tensor>& bias_in,
               int64_t act, double alpha, double gain, const std::optional<double>& clamp,
               bool sums_over_channels = false)
      : factor(factor_in, input, input.size(0) * input.size(1), 1.0),
        bias(bias_in, input, input.size(1), 0.0) {
    call.element = element_of(op, input);
    channels_last = is_channels_last(input);
    call.order = channels_last        ? EpilogueOrder::kPixelsChannelsLast
                 : sums_over_channels ? EpilogueOrder::kPixels
                                      : EpilogueOrder::kRows;
    x = arranged(input, channels_last);
    call.x = x.const_data_ptr();
    const auto s = x.sizes();
    call.samples = s[0];
    call.channels = s[1];
    call.pixels = s[2] * s[3];
    call.factor = factor.data();
    call.bias = bias.data();
    if (noise_in) {
      noise = noise_in->is_contiguous() ? *noise_in : torch::stable::contiguous(*noise_in);
      call.noise = noise.const_data_ptr();
      call.noise_stride = noise.size(0) == 1 ? 0 : call.pixels;
    }
    call.act = static_cast<Act>(act);
    call.gain = gain;
    call.alpha = alpha;
    call.limit = limit_of(clamp);
  }

  void run() const {
    const EpilogueFn kernel = SDD_FOR_CPU_LEVEL(conv_epilogue_);
    const int64_t tasks = epilogue_tasks(call);
    const int64_t elements = std::max<int64_t>(1, x.numel() / std::max<int64_t>(1, tasks));
    const int64_t grain = std::max<int64_t>(1, kGrainElements / elements);
    if (tasks <= grain) return kernel(call, 0, tasks);
    torch::stable::parallel_for(0, tasks, grain,
                                [&](int64_t begin, int64_t end) { kernel(call, begin, end); });
  }
};

// x: [N, O, H, W], factor: [N, O], noise: [1 or N, 1, H, W], bias: [O] -> [N, O, H, W], in the
// channels_last layout if x is, else contiguous
Tensor conv_epilogue(const Tensor& x, const std::optional<Tensor>& factor,
                     const std::optional<Tensor>& noise, const std::optional<Tensor>& bias,
                     int64_t act, double alpha, double gain, std::optional<double> clamp) {
  check("conv_epilogue", x, factor, noise, bias, act, alpha, gain, clamp);
  const Tensor out = new_like(x, is_channels_last(x));
  if (x.numel() == 0) return out;
  PreparedCall prepared("conv_epilogue", x, factor, noise, bias, act, alpha, gain, clamp);
  prepared.call.out = out.mutable_data_ptr();
  prepared.run();
  return out;
}

// The same, written over x, which must be dense in one of the two layouts.
void conv_epilogue_inplace(Tensor x, const std::optional<Tensor>& factor,
                           const std::optional<Tensor>& noise, const std::optional<Tensor>& bias,
                           int64_t act, double alpha, double gain, std::optional<double> clamp) {
  check("conv_epilogue_", x, factor, noise, bias, act, alpha, gain, clamp);
  STD_TORCH_CHECK(x.is_contiguous() || is_channels_last(x),
                  "conv_epilogue_: x must be contiguous or channels_last");
  if (x.numel() == 0) return;
  PreparedCall prepared("conv_epilogue_", x, factor, noise, bias, act, alpha, gain, clamp);
  prepared.call.out = x.mutable_data_ptr();
  prepared.run();
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
  STD_TORCH_CHECK(
      grad_in.is_cpu() && same_sizes(grad_in, x) && grad_in.scalar_type() == x.scalar_type(), op,
      ": grad must be like x: shape, dtype and device");
  STD_TORCH_CHECK((factor || !factor_grad) && (noise || !noise_grad) && (bias || !bias_grad), op,
                  ": a gradient is wanted of something that is not there");
  PreparedCall prepared(op, x, factor, noise, bias, act, alpha, gain, clamp, noise_grad);
  EpilogueCall& call = prepared.call;
  const Tensor grad = arranged(grad_in, prepared.channels_last);
  const Tensor x_grad = new_like(x, prepared.channels_last);
  const Tensor factor_out =
      factor_grad ? new_contiguous({call.samples, call.channels}, *factor) : new_contiguous({0}, x);
  const Tensor noise_out = noise_grad ? new_contiguous({noise->size(0), 1, x.size(2), x.size(3)}, x)
                                      : new_contiguous({0}, x);
  const Tensor bias_out = new_contiguous({bias_grad ? call.channels : 0}, x);
  call.grad = grad.const_data_ptr();
  call.out = x_grad.mutable_data_ptr();

  const int64_t runs = epilogue_runs(call);
  const int64_t sums = epilogue_sums(call);
  const auto row_of = [&](int64_t i) {  // of sums[i]: sample * channels + channel
    if (call.order == EpilogueOrder::kRows) return i / runs;
    return i / call.channels / runs * call.channels + i % call.channels;
  };
  std::vector<double> factor_sums(factor_grad ? sums : 0), bias_sums(bias_grad ? sums : 0);
  const bool wide = call.element == Element::kFloat64;
  const int64_t noise_count = noise_grad ? call.samples * call.pixels : 0;
  const std::unique_ptr<double[]> noise_wide(new double[wide ? noise_count : 0]);
  const std::unique_ptr<float[]> noise_narrow(new float[wide ? 0 : noise_count]);
  call.factor_sums = factor_grad ? factor_sums.data() : nullptr;
  call.bias_sums = bias_grad ? bias_sums.data() : nullptr;
  if (noise_grad) {
    call.noise_sums = wide ? static_cast<void*>(noise_wide.get()) : noise_narrow.get();
  }
  if (x.numel() > 0) prepared.run();

  // Sums over the runs of a sample, and over the samples, in order.
  if (factor_grad) {
    std::vector<double> total(call.samples * call.channels);
    for (int64_t i = 0; i < sums; ++i) total[row_of(i)] += factor_sums[i];
    store(total.data(), factor_out);
  }
  if (bias_grad) {
    std::vector<double> total(call.channels);
    for (int64_t i = 0; i < sums; ++i) total[row_of(i) % call.channels] += bias_sums[i];
    store(total.data(), bias_out);
  }
  if (noise_grad) {
    std::vector<double> total(noise_out.numel());
    if (x.numel() > 0) {
      for (int64_t i = 0; i < noise_count; ++i) {
        total[call.noise_stride == 0 ? i % call.pixels : i] +=
            wide ? noise_wide[i] : double(noise_narrow[i]);
      }
    }
    store(total.data(), noise_out);
  }
  return {x_grad, factor_out, noise_out, bias_out};
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CPU, m) {
  m.impl("conv_epilogue", TORCH_BOX(&sdd::conv_epilogue));
  m.impl("conv_epilogue_", TORCH_BOX(&sdd::conv_epilogue_inplace));
  m.impl("conv_epilogue_backward", TORCH_BOX(&sdd::conv_epilogue_backward));
}
