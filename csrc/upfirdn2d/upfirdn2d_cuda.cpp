// CUDA entry of upfirdn2d: checks and memory layout. The filter stays on the device.
#include "upfirdn2d_cuda.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/device.h"
#include "upfirdn2d_torch.h"

namespace sdd {
namespace {

// Whether x had better be copied: neither its columns nor its channels are neighbours, and it is
// not one number seen many times.
bool wants_copy(const Tensor& x) {
  if (x.stride(3) == 1 || channels_are_neighbours(x)) return false;
  for (int64_t d = 0; d < 4; ++d) {
    if (x.size(d) > 1 && x.stride(d) == 0) return false;
  }
  return true;
}

// x: [N, C, H, W], f: [k] or [kh, kw] -> [N, C, H', W'], channels_last where x is
Tensor upfirdn2d(const Tensor& x_in, const Tensor& f, int64_t up, int64_t down, int64_t left,
                 int64_t right, int64_t top, int64_t bottom, bool flip_filter, double gain) {
  STD_TORCH_CHECK(on_device(x_in), "upfirdn2d: this kernel takes CUDA tensors");
  STD_TORCH_CHECK(same_device(f, x_in), "upfirdn2d: f must be on the device of x");
  check_arguments(x_in, f, up, down, gain);
  Upfirdn2dCuda c{};
  c.element = element_of("upfirdn2d", x_in);
  c.rows = axis_of("height", x_in.size(2), f.size(0), up, down, top, bottom);
  c.columns = axis_of("width", x_in.size(3), f.size(f.dim() - 1), up, down, left, right);
  const ResultLayout layout = result_layout(x_in, c.rows, c.columns);
  const OnDevice device(x_in);
  const Tensor y = new_on_device(4, layout.sizes, layout.strides, dtype_of(x_in), x_in);
  if (y.numel() == 0) return y;

  const Tensor x = wants_copy(x_in) ? torch::stable::contiguous(x_in) : x_in;
  const bool last = channels_are_neighbours(x);
  c.x = x.const_data_ptr();
  c.y = y.mutable_data_ptr();
  c.images = x.size(0);
  c.channels = last ? 1 : x.size(1);
  c.granule = last ? x.size(1) : 1;
  c.image_stride = x.stride(0);
  c.channel_stride = last ? 0 : x.stride(1);
  c.row_stride = x.stride(2);
  c.pixel_stride = x.stride(3);
  c.filter = {f.const_data_ptr(),
              element_of("upfirdn2d", f),
              f.dim() == 1,
              flip_filter,
              gain,
              f.dim() == 1 ? 0 : f.stride(0),
              f.stride(f.dim() - 1)};
  upfirdn2d_cuda(c, device.stream());
  return y;
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, SDD_DEVICE_KEY, m) {
  m.impl("upfirdn2d", TORCH_BOX(&sdd::upfirdn2d));
}
