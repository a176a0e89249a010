// demodulation on the CPU: threads.
#include "../common/cpu_work.h"
#include "demodulation_kernel.h"

namespace sdd {

void demodulation_energies_portable(const Energies&, int64_t, int64_t);
void demodulation_energies_x86_64_v3(const Energies&, int64_t, int64_t);
void demodulation_energies_x86_64_v4(const Energies&, int64_t, int64_t);
void demodulation_factors_portable(const Factors&, int64_t, int64_t);
void demodulation_factors_x86_64_v3(const Factors&, int64_t, int64_t);
void demodulation_factors_x86_64_v4(const Factors&, int64_t, int64_t);

void demodulation_cpu(const Demodulation& d) {
  const auto energies = SDD_FOR_CPU_LEVEL(demodulation_energies_);
  const Energies of_weight{d.weight,  d.energy, d.element,     d.rows,
                           d.columns, d.terms,  d.terms_inside};
  run_tasks(energies, of_weight, d.rows * divide_up(d.columns, kEnergyRun),
            std::min(d.columns, kEnergyRun) * d.terms);

  // The squares of the styles are energies of one term.
  const int64_t styles = d.samples * d.inputs;
  const std::unique_ptr<double[]> squares(new double[std::max<int64_t>(1, styles)]);
  const Energies of_styles{d.styles, squares.get(), d.element, 1, styles, 1, false};
  energies(of_styles, 0, divide_up(styles, kEnergyRun));

  run_tasks(SDD_FOR_CPU_LEVEL(demodulation_factors_), Factors{d, squares.get()},
            divide_up(d.outputs, kFactorRun),
            std::min(d.outputs, kFactorRun) * d.inputs * d.samples);
}

}  // namespace sdd
