// upfirdn2d for torch: checks, memory layout, the result.
#include <cmath>

#include "../common/device.h"
#include "upfirdn2d_kernel.h"

namespace sdd {
namespace {

// With these, no product or sum of the index arithmetic overflows.
constexpr int64_t kMaxFactor = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxSize = int64_t{1} << 62;

void check(const Tensor& x, const Tensor& f, int64_t up, int64_t down, double gain) {
  STD_TORCH_CHECK(x.dim() == 4, "upfirdn2d: x must have 4 dimensions, it has ", x.dim());
  STD_TORCH_CHECK(same_device(f, x), "upfirdn2d: f must be on the device of x");
  STD_TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0,
                  "upfirdn2d: f must be a filter of 1 or 2 dimensions");
  const ScalarType t = f.scalar_type();
  STD_TORCH_CHECK(t == ScalarType::Double || t == ScalarType::Float || t == ScalarType::Half ||
                      t == ScalarType::BFloat16,
                  "upfirdn2d: f must be float64, float32, float16 or bfloat16");
  STD_TORCH_CHECK(up >= 1 && up <= kMaxFactor && down >= 1 && down <= kMaxFactor,
                  "upfirdn2d: up and down must be from 1 to ", kMaxFactor);
  STD_TORCH_CHECK(std::isfinite(gain), "upfirdn2d: gain must be finite, got ", gain);
}

ResampleAxis axis_of(const char* name, int64_t size, int64_t taps, int64_t up, int64_t down,
                     int64_t before, int64_t after) {
  int64_t padded = 0;
  const bool overflow = __builtin_mul_overflow(size, up, &padded) ||
                        __builtin_add_overflow(padded, before, &padded) ||
                        __builtin_add_overflow(padded, after, &padded) || padded > kMaxSize ||
                        before < -kMaxSize || before > kMaxSize;
  STD_TORCH_CHECK(!overflow, "upfirdn2d: the upsampled and padded ", name, " of x overflows");
  STD_TORCH_CHECK(size > 0 && padded >= taps, "upfirdn2d: the upsampled and padded ", name, " is ",
                  padded, ", smaller than the filter, ", taps);
  return {up, down, before, taps, size, resampled_size(padded, taps, down)};
}

// Whether x is read pixel by pixel: channels_last, dense or not.
bool channels_inside(const Tensor& x) {
  return x.size(1) > 1 && x.stride(1) == 1 && x.stride(3) != 1;
}

// [N, C, H', W'], dense, channels_last where x is.
Tensor new_result(const Tensor& x, const ResampleAxis& rows, const ResampleAxis& columns) {
  const int64_t sizes[] = {x.size(0), x.size(1), rows.out, columns.out};
  int64_t bytes = 8;
  for (const int64_t s : sizes) {
    STD_TORCH_CHECK(!__builtin_mul_overflow(bytes, std::max<int64_t>(s, 1), &bytes),
                    "upfirdn2d: the result, [", sizes[0], ", ", sizes[1], ", ", rows.out, ", ",
                    columns.out, "], is too large");
  }
  const int64_t channels = std::max<int64_t>(x.size(1), 1);
  const int64_t height = std::max<int64_t>(rows.out, 1), width = std::max<int64_t>(columns.out, 1);
  const int64_t planes[] = {channels * height * width, height * width, width, 1};
  const int64_t pixels[] = {channels * height * width, 1, width * channels, channels};
  return new_strided(4, sizes, channels_inside(x) ? pixels : planes, dtype_of(x), x);
}

// Whether a GPU had better read a contiguous copy of x: neither its columns nor its channels are
// neighbors, and it is not one element seen many times.
bool scattered(const Tensor& x) {
  if (x.stride(3) == 1 || channels_inside(x)) return false;
  for (int64_t d = 0; d < 4; ++d) {
    if (x.size(d) > 1 && x.stride(d) == 0) return false;
  }
  return true;
}

void set_input(Upfirdn2d& c, const Tensor& x) {
  const bool inside = channels_inside(x);
  c.x = x.const_data_ptr();
  c.images = x.size(0);
  c.channels = inside ? 1 : x.size(1);
  c.granule = inside ? x.size(1) : 1;
  c.image_stride = x.stride(0);
  c.channel_stride = inside ? 0 : x.stride(1);
  c.row_stride = x.stride(2);
  c.pixel_stride = x.stride(3);
}

// x: [N, C, H, W], f: [k] or [kh, kw] -> [N, C, H', W'], channels_last where x is
Tensor upfirdn2d(const Tensor& x, const Tensor& f, int64_t up, int64_t down, int64_t left,
                 int64_t right, int64_t top, int64_t bottom, bool flip_filter, double gain) {
  check(x, f, up, down, gain);
  const bool separable = f.dim() == 1;
  Upfirdn2d c{};
  c.element = element_of("upfirdn2d", x);
  c.rows = axis_of("height", x.size(2), f.size(0), up, down, top, bottom);
  c.columns = axis_of("width", x.size(3), f.size(f.dim() - 1), up, down, left, right);
  c.filter = {f.const_data_ptr(),          element_of("upfirdn2d", f), separable, flip_filter, gain,
              separable ? 0 : f.stride(0), f.stride(f.dim() - 1)};
  const Tensor y = new_result(x, c.rows, c.columns);
  c.y = y.mutable_data_ptr();
  if (y.numel() == 0) return y;
  set_input(c, x);
  on_device_of(
      x, [&] { upfirdn2d_cpu(c); },
      [&](void* stream) {
        const Tensor copy = scattered(x) ? torch::stable::contiguous(x) : x;
        set_input(c, copy);
        upfirdn2d_cuda(c, stream);
      });
  return y;
}

template <class Library>
void define(Library& m) {
  m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d));
}

}  // namespace
}  // namespace sdd

SDD_REGISTER_KERNELS(sdd::define)
