// demodulation for torch: checks, memory layout, results.
#include <tuple>

#include "../common/device.h"
#include "demodulation_kernel.h"

namespace sdd {
namespace {

// weight: [O, I, kh, kw], styles: [N, I] -> factor: [N, O], energy: [O, I]
std::tuple<Tensor, Tensor> demodulation(const Tensor& weight, const Tensor& styles, double eps) {
  STD_TORCH_CHECK(weight.dim() == 4, "demodulation: weight must be [O, I, kh, kw], it has ",
                  weight.dim(), " dimensions");
  const Element element = element_of("demodulation", weight);
  STD_TORCH_CHECK(styles.dim() == 2 && styles.size(1) == weight.size(1),
                  "demodulation: styles must be [N, I] with the I of weight");
  STD_TORCH_CHECK(same_device(styles, weight) && styles.scalar_type() == weight.scalar_type(),
                  "demodulation: styles must have the dtype and device of weight");
  STD_TORCH_CHECK(eps >= 0 && eps <= 1, "demodulation: eps must lie in [0, 1], got ", eps);

  const bool channels_last = is_channels_last(weight);
  const Tensor w = channels_last ? weight : as_contiguous(weight), s = as_contiguous(styles);
  const int64_t outputs = weight.size(0), inputs = weight.size(1), samples = styles.size(0);
  const int32_t wide = wide_dtype_of(weight);
  const Tensor energy = new_contiguous({outputs, inputs}, wide, weight);
  const Tensor factor = new_contiguous({samples, outputs}, wide, weight);

  Demodulation d{};
  d.weight = w.const_data_ptr();
  d.styles = s.const_data_ptr();
  d.energy = energy.mutable_data_ptr();
  d.factor = factor.mutable_data_ptr();
  d.element = element;
  d.rows = channels_last ? outputs : 1;
  d.columns = channels_last ? inputs : outputs * inputs;
  d.terms = weight.size(2) * weight.size(3);
  d.terms_inside = !channels_last && d.terms != 1;
  d.samples = samples;
  d.outputs = outputs;
  d.inputs = inputs;
  d.eps = eps;
  on_device_of(
      weight, [&] { demodulation_cpu(d); }, [&](void* stream) { demodulation_cuda(d, stream); });
  return {factor, energy};
}

template <class Library>
void define(Library& m) {
  m.impl("demodulation", TORCH_BOX(&demodulation));
}

}  // namespace
}  // namespace sdd

SDD_REGISTER_KERNELS(sdd::define)
