// CPU entries of conv_epilogue and its backward pass: checks, memory layout, threads, and the sums
// that make the gradients of factor, noise and bias.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "../bias_act/bias_act_cpu.h"
#include "../common/cpu_level.h"
#include "conv_epilogue_kernel.h"
#include "conv_epilogue_torch.h"

namespace sdd {

void conv_epilogue_portable(const EpilogueCall&, int64_t, int64_t);
void conv_epilogue_x86_64_v3(const EpilogueCall&, int64_t, int64_t);
void conv_epilogue_x86_64_v4(const EpilogueCall&, int64_t, int64_t);

namespace {

Tensor new_like(const Tensor& x, bool channels_last) {
  return new_tensor(4, x.sizes().data(), map_strides(x, channels_last).data(), x);
}

void check(const char* op, const Tensor& x, const std::optional<Tensor>& factor,
           const std::optional<Tensor>& noise, const std::optional<Tensor>& bias, int64_t act,
           double alpha, double gain, const std::optional<double>& clamp) {
  STD_TORCH_CHECK(x.is_cpu(), op, ": this kernel takes CPU tensors");
  check_epilogue(op, x, factor, noise, bias, act, alpha, gain, clamp);
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
    x = arranged(input, channels_last, new_like);
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
  check_epilogue_inplace(x);
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
  check_epilogue_backward(op, grad_in, x, factor, noise, bias, factor_grad, noise_grad, bias_grad);
  PreparedCall prepared(op, x, factor, noise, bias, act, alpha, gain, clamp, noise_grad);
  EpilogueCall& call = prepared.call;
  const Tensor grad = arranged(grad_in, prepared.channels_last, new_like);
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
