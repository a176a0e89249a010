// softmax_entropy_l1 and its gradient for torch: checks, memory layout, results.
#include <tuple>

#include "../common/device.h"
#include "softmax_entropy_l1_kernel.h"

namespace sdd {
namespace {

// The input and what the kernels are told of it.
struct Maps {
  Tensor x;
  EntropyMaps maps;
};

// input: [N, n], or [N, C, n] with abs_mean
Maps maps_of(const Tensor& input, bool abs_mean) {
  const int64_t dims = abs_mean ? 3 : 2;
  STD_TORCH_CHECK(input.dim() == dims, "softmax_entropy_l1: x must have ", dims,
                  " dimensions, it has ", input.dim());
  const Element element = element_of("softmax_entropy_l1", input);
  const int64_t n = input.size(dims - 1);
  const int64_t channels = abs_mean ? input.size(1) : 0;
  STD_TORCH_CHECK(n > 0 && (!abs_mean || channels > 0),
                  "softmax_entropy_l1: x must have at least one entry per row");
  // Rows and channels may lie anywhere; entries must be neighbors.
  const Tensor x = n == 1 || input.stride(dims - 1) == 1 ? input : torch::stable::contiguous(input);
  return {x,
          {x.const_data_ptr(), element, x.size(0), n, channels, x.stride(0),
           abs_mean ? x.stride(1) : 0}};
}

// [N] float64 on the device of x: a statistic, or its gradient.
RowValues row_values(const std::optional<Tensor>& values, const Tensor& x) {
  if (!values) return {nullptr, 0};
  STD_TORCH_CHECK(same_device(*values, x) && values->dim() == 1 && values->size(0) == x.size(0) &&
                      values->scalar_type() == ScalarType::Double,
                  "softmax_entropy_l1_backward: statistics and their gradients must be float64, "
                  "one for each row of x, on its device");
  return {static_cast<const double*>(values->const_data_ptr()), values->stride(0)};
}

// x: [N, n], or [N, C, n] with abs_mean -> entropy, l1, deficit, log_mean_exp: [N] float64
std::tuple<Tensor, Tensor, Tensor, Tensor> softmax_entropy_l1(const Tensor& input, bool abs_mean) {
  const Maps in = maps_of(input, abs_mean);
  const EntropyMaps& maps = in.maps;
  const auto new_doubles = [&](int64_t count) {
    return new_contiguous({count}, aoti_torch_dtype_float64(), input);
  };
  const auto data = [](const Tensor& t) { return static_cast<double*>(t.mutable_data_ptr()); };
  const Tensor entropy = new_doubles(maps.rows), l1 = new_doubles(maps.rows);
  const Tensor deficit = new_doubles(maps.rows), log_mean_exp = new_doubles(maps.rows);
  const EntropyResults results{data(entropy), data(l1), data(deficit), data(log_mean_exp)};
  if (maps.rows > 0) {
    on_device_of(
        input, [&] { softmax_entropy_l1_cpu(maps, results); },
        [&](void* stream) {
          const Tensor workspace = new_doubles(entropy_workspace(maps));
          softmax_entropy_l1_cuda(maps, results, data(workspace), stream);
        });
  }
  return {entropy, l1, deficit, log_mean_exp};
}

// The gradient of the result of softmax_entropy_l1(x, abs_mean), of which deficit and log_mean_exp
// are two; grad_...: of each, [N] float64 -> contiguous, like x
Tensor softmax_entropy_l1_backward(const std::optional<Tensor>& grad_entropy,
                                   const std::optional<Tensor>& grad_l1,
                                   const std::optional<Tensor>& grad_deficit,
                                   const std::optional<Tensor>& grad_log_mean_exp,
                                   const Tensor& input, const Tensor& deficit,
                                   const Tensor& log_mean_exp, bool abs_mean) {
  const Maps in = maps_of(input, abs_mean);
  const GradientRows rows{row_values(deficit, input),      row_values(log_mean_exp, input),
                          row_values(grad_entropy, input), row_values(grad_l1, input),
                          row_values(grad_deficit, input), row_values(grad_log_mean_exp, input)};
  const int64_t n = in.maps.n, of_row = std::max<int64_t>(in.maps.channels, 1) * n;
  const int64_t strides[] = {of_row, abs_mean ? n : 1, 1};
  const Tensor grad =
      new_strided(input.dim(), input.sizes().data(), strides, dtype_of(input), input);
  void* out = grad.mutable_data_ptr();
  if (in.maps.rows > 0) {
    on_device_of(
        input, [&] { softmax_entropy_l1_backward_cpu(in.maps, rows, out); },
        [&](void* stream) { softmax_entropy_l1_backward_cuda(in.maps, rows, out, stream); });
  }
  return grad;
}

template <class Library>
void define(Library& m) {
  m.impl("softmax_entropy_l1", TORCH_BOX(&softmax_entropy_l1));
  m.impl("softmax_entropy_l1_backward", TORCH_BOX(&softmax_entropy_l1_backward));
}

}  // namespace
}  // namespace sdd

SDD_REGISTER_KERNELS(sdd::define)
