// CUDA entry of demodulation: checks, memory layout.
#include "demodulation_cuda.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/device.h"
#include "demodulation_torch.h"

namespace sdd {
namespace {

// weight: [O, I, kh, kw], styles: [N, I] -> factor: [N, O], energy: [O, I]
std::tuple<Tensor, Tensor> demodulation(const Tensor& weight, const Tensor& styles, double eps) {
  STD_TORCH_CHECK(on_device(weight), "demodulation: this kernel takes CUDA tensors");
  check_demodulation(weight, styles, eps);
  const OnDevice device(weight);
  const WeightLayout layout(weight);
  const int64_t outputs = weight.size(0), inputs = weight.size(1), samples = styles.size(0);
  const Element element = element_of("demodulation", weight);
  const int32_t wide =
      element == Element::kFloat64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  const int64_t sizes[] = {outputs, inputs};
  const Tensor energy = new_on_device(2, sizes, EnergyStrides(layout).strides, wide, weight);
  const Tensor factor = new_on_device({samples, outputs}, wide, weight);
  const Tensor s = styles.is_contiguous() ? styles : torch::stable::contiguous(styles);
  demodulation_cuda(
      {layout.weight.const_data_ptr(), s.const_data_ptr(), energy.mutable_data_ptr(),
       factor.mutable_data_ptr(), element, layout.terms_inside, layout.turned, layout.rows(),
       layout.numbers(), layout.terms(), samples, outputs, inputs, eps},
      device.stream());
  return {factor, energy};
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, SDD_DEVICE_KEY, m) {
  m.impl("demodulation", TORCH_BOX(&sdd::demodulation));
}
