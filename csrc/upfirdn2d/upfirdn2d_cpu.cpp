// CPU entry of upfirdn2d: checks, the layout of the result, threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/cpu_level.h"
#include "../common/new_tensor.h"
#include "upfirdn2d_kernel.h"
#include "upfirdn2d_torch.h"

namespace sdd {

void upfirdn2d_rows_portable(const Upfirdn2d&, int64_t, int64_t);
void upfirdn2d_rows_x86_64_v3(const Upfirdn2d&, int64_t, int64_t);
void upfirdn2d_rows_x86_64_v4(const Upfirdn2d&, int64_t, int64_t);

namespace {

// Outputs for one thread at least: below it, waking a second thread costs more than it saves.
constexpr int64_t kGrainOutputs = 32768;

// f, gain included, in the order of formula (1): reversed for a convolution.
std::vector<double> taps_of(const Tensor& f, bool flip_filter, double gain) {
  const bool plane = f.dim() == 2;
  const int64_t rows = plane ? f.size(0) : 1, columns = f.size(plane ? 1 : 0);
  const int64_t row_stride = plane ? f.stride(0) : 0, column_stride = f.stride(plane ? 1 : 0);
  const void* data = f.const_data_ptr();
  const auto tap = [&](int64_t i) -> double {
    switch (f.scalar_type()) {
      case ScalarType::Double:
        return static_cast<const double*>(data)[i];
      case ScalarType::Float:
        return double(static_cast<const float*>(data)[i]);
      case ScalarType::Half:
        return double(half_to_float<float>(static_cast<const uint16_t*>(data)[i]));
      default:
        return double(bfloat16_to_float<float>(static_cast<const uint16_t*>(data)[i]));
    }
  };
  std::vector<double> taps(rows * columns);
  for (int64_t a = 0; a < rows; ++a) {
    for (int64_t b = 0; b < columns; ++b) {
      const int64_t slot = a * columns + b;
      taps[flip_filter ? slot : rows * columns - 1 - slot] =
          tap(a * row_stride + b * column_stride) * gain;
    }
  }
  return taps;
}

// x: [N, C, H, W], f: [k] or [kh, kw] -> [N, C, H', W'], channels_last where x is
Tensor upfirdn2d(const Tensor& x, const Tensor& f, int64_t up, int64_t down, int64_t left,
                 int64_t right, int64_t top, int64_t bottom, bool flip_filter, double gain) {
  STD_TORCH_CHECK(x.is_cpu() && f.is_cpu(), "upfirdn2d: this kernel takes CPU tensors");
  check_arguments(x, f, up, down, gain);
  Upfirdn2d p{};
  p.element = element_of("upfirdn2d", x);
  const int64_t images = x.size(0), channels = x.size(1);
  const int64_t kh = f.size(0), kw = f.size(f.dim() - 1);
  p.rows = axis_of("height", x.size(2), kh, up, down, top, bottom);
  p.columns = axis_of("width", x.size(3), kw, up, down, left, right);
  const std::vector<double> taps = taps_of(f, flip_filter, gain);
  std::vector<double> plain_taps;
  p.column_taps = taps.data();
  if (f.dim() == 1) {  // the gain belongs to one of the two passes
    plain_taps = taps_of(f, flip_filter, 1.0);
    p.row_taps = taps.data();
    p.column_taps = plain_taps.data();
  }

  const bool last = channels_are_neighbours(x);
  const ResultLayout layout = result_layout(x, p.rows, p.columns);
  const Tensor y = new_tensor(4, layout.sizes, layout.strides, x);
  if (images == 0 || channels == 0) return y;

  p.x = x.const_data_ptr();
  p.y = y.mutable_data_ptr();
  p.channels = last ? 1 : channels;
  p.granule = last ? channels : 1;
  p.image_stride = x.stride(0);
  p.channel_stride = last ? 0 : x.stride(1);
  p.row_stride = x.stride(2);
  p.pixel_stride = x.stride(3);
  const Upfirdn2dFn compute = SDD_FOR_CPU_LEVEL(upfirdn2d_rows_);
  p.x_size = 1;
  for (int d = 0; d < 4; ++d) p.x_size += (x.size(d) - 1) * x.stride(d);
  const int64_t rows = images * p.channels * p.rows.out;
  const int64_t outputs = p.columns.out * p.granule;  // of a row
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrainOutputs / outputs),
                              [&](int64_t begin, int64_t end) { compute(p, begin, end); });
  return y;
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CPU, m) { m.impl("upfirdn2d", TORCH_BOX(&sdd::upfirdn2d)); }
