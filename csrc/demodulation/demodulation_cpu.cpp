// CPU entry of demodulation: checks, memory layout, threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "../common/cpu_level.h"
#include "demodulation_kernel.h"
#include "demodulation_torch.h"

namespace sdd {

void demodulation_energies_portable(const EnergyCall&, int64_t, int64_t);
void demodulation_energies_x86_64_v3(const EnergyCall&, int64_t, int64_t);
void demodulation_energies_x86_64_v4(const EnergyCall&, int64_t, int64_t);
void demodulation_factors_portable(const FactorCall&, int64_t, int64_t);
void demodulation_factors_x86_64_v3(const FactorCall&, int64_t, int64_t);
void demodulation_factors_x86_64_v4(const FactorCall&, int64_t, int64_t);

namespace {

// Work for one thread at least: below it, waking a second thread costs more than it saves.
constexpr int64_t kGrainElements = 65536;

// [rows, columns] on the CPU, float64 beside float64, else float32.
Tensor new_wide(int64_t rows, int64_t columns, const int64_t (&strides)[2], bool is_double) {
  const int64_t sizes[] = {rows, columns};
  const int32_t dtype = is_double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(2, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// Tasks of about `work` numbers each, on as many threads as that is worth.
template <class Kernel, class Call>
void run_tasks(const Kernel& kernel, const Call& call, int64_t tasks, int64_t work) {
  const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, work));
  if (tasks <= grain) return kernel(call, 0, tasks);
  torch::stable::parallel_for(0, tasks, grain,
                              [&](int64_t begin, int64_t end) { kernel(call, begin, end); });
}

// weight: [O, I, kh, kw], styles: [N, I] -> factor: [N, O], energy: [O, I]
std::tuple<Tensor, Tensor> demodulation(const Tensor& weight, const Tensor& styles, double eps) {
  STD_TORCH_CHECK(weight.is_cpu(), "demodulation: this kernel takes CPU tensors");
  check_demodulation(weight, styles, eps);
  const WeightLayout layout(weight);
  const int64_t outputs = weight.size(0), inputs = weight.size(1), samples = styles.size(0);
  const Element element = element_of("demodulation", weight);
  const bool is_double = element == Element::kFloat64;
  const Tensor energy = new_wide(outputs, inputs, EnergyStrides(layout).strides, is_double);
  const Tensor factor = new_wide(samples, outputs, {std::max<int64_t>(1, outputs), 1}, is_double);

  const EnergyFn energies = SDD_FOR_CPU_LEVEL(demodulation_energies_);
  const EnergyCall of_weight{layout.weight.const_data_ptr(),
                             energy.mutable_data_ptr(),
                             element,
                             layout.rows(),
                             layout.numbers(),
                             layout.terms(),
                             layout.terms_inside};
  run_tasks(energies, of_weight, of_weight.rows * runs_of(of_weight.numbers, kEnergyRun),
            std::min(of_weight.numbers, kEnergyRun) * of_weight.terms);

  // The squares of the styles are energies of one term.
  const Tensor s = styles.is_contiguous() ? styles : torch::stable::contiguous(styles);
  const std::unique_ptr<double[]> squares(new double[std::max<int64_t>(1, s.numel())]);
  const EnergyCall of_styles{s.const_data_ptr(), squares.get(), element, 1, s.numel(), 1, false};
  energies(of_styles, 0, runs_of(s.numel(), kEnergyRun));

  const FactorCall of_factor{energy.const_data_ptr(),
                             squares.get(),
                             factor.mutable_data_ptr(),
                             is_double,
                             layout.turned,
                             samples,
                             outputs,
                             inputs,
                             eps};
  run_tasks(SDD_FOR_CPU_LEVEL(demodulation_factors_), of_factor, runs_of(outputs, kFactorRun),
            std::min(outputs, kFactorRun) * inputs * samples);
  return {factor, energy};
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CPU, m) {
  m.impl("demodulation", TORCH_BOX(&sdd::demodulation));
}
