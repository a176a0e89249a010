// demodulation for torch: checks, and the order of the weights in memory.
#include <tuple>

#include "../common/device.h"
#include "demodulation_kernel.h"

namespace sdd {
namespace {

// Whether w is dense with its dimensions in this order, from the innermost to the outermost.
bool has_order(const Tensor& w, const int (&order)[4]) {
  int64_t expected = 1;
  for (const int d : order) {
    if (w.size(d) != 1 && w.stride(d) != expected) return false;
    expected *= w.size(d);
  }
  return true;
}

// The order of weights [O, I, kh, kw] in memory, and so of the energies made of them.
struct WeightLayout {
  Tensor weight;      // as it was given, or a contiguous copy
  bool transposed;    // inputs outside outputs; in the energies too
  bool terms_inside;  // the elements of a kernel are neighbors; else the kernel is outside

  explicit WeightLayout(const Tensor& w) : weight(w), transposed(false), terms_inside(true) {
    if (w.numel() > 0 && !has_order(w, {3, 2, 1, 0})) {
      transposed = !has_order(w, {1, 3, 2, 0});
      terms_inside = transposed && has_order(w, {3, 2, 0, 1});
      if (transposed && !terms_inside && !has_order(w, {0, 3, 2, 1})) {
        weight = torch::stable::contiguous(w);
        transposed = false, terms_inside = true;
      }
    }
    if (terms() == 1) terms_inside = false;
  }
  int64_t outer() const { return weight.size(transposed ? 1 : 0); }
  int64_t inner() const { return weight.size(transposed ? 0 : 1); }
  int64_t terms() const { return weight.size(2) * weight.size(3); }
  // Where the elements of a kernel are neighbors, or there is one, all energies are a single row.
  bool one_row() const { return terms_inside || terms() == 1; }
};

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

  const WeightLayout layout(weight);
  const int64_t outputs = weight.size(0), inputs = weight.size(1), samples = styles.size(0);
  const int64_t inner = std::max<int64_t>(1, layout.inner());
  const int64_t sizes[] = {outputs, inputs};
  const int64_t strides[] = {layout.transposed ? 1 : inner, layout.transposed ? inner : 1};
  const int32_t wide = wide_dtype_of(weight);
  const Tensor energy = new_strided(2, sizes, strides, wide, weight);
  const Tensor factor = new_contiguous({samples, outputs}, wide, weight);
  const Tensor s = as_contiguous(styles);

  Demodulation d{};
  d.weight = layout.weight.const_data_ptr();
  d.styles = s.const_data_ptr();
  d.energy = energy.mutable_data_ptr();
  d.factor = factor.mutable_data_ptr();
  d.element = element;
  d.terms_inside = layout.terms_inside;
  d.transposed = layout.transposed;
  d.rows = layout.one_row() ? 1 : layout.outer();
  d.columns = layout.one_row() ? layout.outer() * layout.inner() : layout.inner();
  d.terms = layout.terms();
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
