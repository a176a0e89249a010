// upfirdn2d on the CPU: the taps in order, threads.
#include <vector>

#include "../common/cpu_work.h"
#include "upfirdn2d_kernel.h"

namespace sdd {

void upfirdn2d_rows_portable(const Upfirdn2dRows&, int64_t, int64_t);
void upfirdn2d_rows_x86_64_v3(const Upfirdn2dRows&, int64_t, int64_t);
void upfirdn2d_rows_x86_64_v4(const Upfirdn2dRows&, int64_t, int64_t);

namespace {

// Outputs for one thread at least: below it, waking a second thread costs more than it saves.
constexpr int64_t kGrainOutputs = 32768;

// f [rows, columns], times the gain, in the order of formula (1): reversed for a convolution.
std::vector<double> taps_of(const Filter& f, int64_t rows, int64_t columns, double gain) {
  std::vector<double> taps(rows * columns);
  with_element(f.element, [&](auto element) {
    using E = decltype(element);
    const auto* from = static_cast<const typename E::Stored*>(f.taps);
    for (int64_t a = 0; a < rows; ++a) {
      for (int64_t b = 0; b < columns; ++b) {
        const int64_t slot = a * columns + b;
        const double tap = double(E::value(from + a * f.row_stride + b * f.column_stride));
        taps[f.flip ? slot : rows * columns - 1 - slot] = tap * gain;
      }
    }
  });
  return taps;
}

}  // namespace

void upfirdn2d_cpu(const Upfirdn2d& c) {
  const Filter& f = c.filter;
  const std::vector<double> taps =
      taps_of(f, f.separable ? 1 : c.rows.taps, c.columns.taps, f.gain);
  std::vector<double> plain_taps;
  Upfirdn2dRows p{c, nullptr, taps.data(), 0};
  if (f.separable) {  // the gain belongs to one of the two passes
    plain_taps = taps_of(f, 1, c.columns.taps, 1.0);
    p.row_taps = taps.data();
    p.column_taps = plain_taps.data();
  }
  p.x_size = 1 + (c.images - 1) * c.image_stride + (c.channels - 1) * c.channel_stride +
             (c.rows.in - 1) * c.row_stride + (c.columns.in - 1) * c.pixel_stride + c.granule - 1;
  run_tasks(SDD_FOR_CPU_LEVEL(upfirdn2d_rows_), p, c.images * c.channels * c.rows.out,
            c.columns.out * c.granule, kGrainOutputs);
}

}  // namespace sdd
