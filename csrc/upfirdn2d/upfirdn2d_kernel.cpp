// upfirdn2d on the CPU; compiled once per instruction set (SDD_ISA names the copy).
//
// Rows shorter than a few vectors would waste most of each: small planes are turned round in groups
// of kPlanesTogether, so that a pixel is the numbers of all of them, filtered like a channels_last
// image, and turned back. Every number is summed in the same order whichever thread computes it.
#include "upfirdn2d_kernel.h"

#include "line_filter.h"
#include "pixel_filter.h"
#include "row_filter.h"

namespace sdd {
namespace {

// Copies runs of n numbers, one run per plane, to pixels: to[i * kPlanesTogether + plane].
template <class E>
void turn(typename E::Compute* to, const typename E::Stored* from, int64_t plane_stride,
          int64_t n) {
  using T = typename E::Compute;
  constexpr int width = lanes<T>;
  for (int64_t plane = 0; plane < kPlanesTogether; plane += width) {
    const auto* x = from + plane * plane_stride;
    const auto block = [&](int64_t i) __attribute__((always_inline)) {
      typename E::Vector row[width];
      for (int k = 0; k < width; ++k) row[k] = E::vector(x + k * plane_stride + i);
      Shuffle<T>::transpose(row);
      for (int k = 0; k < width; ++k) {
        PlainElement<T>::put(to + (i + k) * kPlanesTogether + plane, row[k]);
      }
    };
    int64_t i = 0;
    for (; i + width <= n; i += width) block(i);
    if (i < n && n >= width) {
      block(n - width);
    } else {
      for (; i < n; ++i) {
        for (int k = 0; k < width; ++k) {
          to[i * kPlanesTogether + plane + k] = E::value(x + k * plane_stride + i);
        }
      }
    }
  }
}

template <class E>
void turn_back(typename E::Stored* to, const typename E::Compute* from, int64_t plane_stride,
               int64_t n) {
  using T = typename E::Compute;
  constexpr int width = lanes<T>;
  for (int64_t plane = 0; plane < kPlanesTogether; plane += width) {
    auto* y = to + plane * plane_stride;
    const auto block = [&](int64_t i) __attribute__((always_inline)) {
      typename E::Vector row[width];
      for (int k = 0; k < width; ++k) row[k] = load(from + (i + k) * kPlanesTogether + plane);
      Shuffle<T>::transpose(row);
      for (int k = 0; k < width; ++k) E::put(y + k * plane_stride + i, row[k]);
    };
    int64_t i = 0;
    for (; i + width <= n; i += width) block(i);
    if (i < n && n >= width) {
      block(n - width);
    } else {
      for (; i < n; ++i) {
        for (int k = 0; k < width; ++k) {
          E::put(&y[k * plane_stride + i], from[i * kPlanesTogether + plane + k]);
        }
      }
    }
  }
}

template <class E>
void filter_rows(const Upfirdn2d& p, int64_t begin, int64_t end) {
  if (PixelFilter<E>::can(p)) return PixelFilter<E>(p).run(begin, end);
  RowFilter<E>(p).run(begin, end);
}

// Groups begin ... end - 1 of planes; the last one may be incomplete.
template <class E>
void filter_groups(const Upfirdn2d& p, int64_t begin, int64_t end) {
  using T = typename E::Compute;
  using Stored = typename E::Stored;
  const int64_t size_in = p.rows.in * p.columns.in, size_out = p.rows.out * p.columns.out;
  Buffer<T> buffer;
  T* x = buffer.at_least((size_in + size_out) * kPlanesTogether);
  T* y = x + size_in * kPlanesTogether;
  Upfirdn2d turned = p;
  turned.x = x;
  turned.y = y;
  turned.channels = 1;
  turned.granule = turned.pixel_stride = kPlanesTogether;
  turned.row_stride = p.columns.in * kPlanesTogether;
  const bool dense_rows = p.row_stride == p.columns.in;
  for (int64_t group = begin; group < end; ++group) {
    const int64_t first = group * kPlanesTogether;
    const int64_t image = first / p.channels, channel = first % p.channels;
    const Stored* from =
        static_cast<const Stored*>(p.x) + image * p.image_stride + channel * p.channel_stride;
    if (dense_rows) {
      turn<E>(x, from, p.channel_stride, size_in);
    } else {
      for (int64_t row = 0; row < p.rows.in; ++row) {
        turn<E>(x + row * turned.row_stride, from + row * p.row_stride, p.channel_stride,
                p.columns.in);
      }
    }
    filter_rows<PlainElement<T>>(turned, 0, p.rows.out);
    turn_back<E>(static_cast<Stored*>(p.y) + first * size_out, y, size_out, size_out);
  }
}

template <class E>
void filter_units(const Upfirdn2d& p, int64_t begin, int64_t end) {
  if (p.path == Upfirdn2dPath::kLines) return LineFilter<E>(p).run(begin, end);
  if (p.path == Upfirdn2dPath::kTogether) return filter_groups<E>(p, begin, end);
  filter_rows<E>(p, begin, end);
}

}  // namespace

void SDD_JOIN(upfirdn2d_units_, SDD_ISA)(const Upfirdn2d& p, int64_t begin, int64_t end) {
  switch (p.element) {
    case Element::kFloat64:
      return filter_units<PlainElement<double>>(p, begin, end);
    case Element::kFloat32:
      return filter_units<PlainElement<float>>(p, begin, end);
    case Element::kFloat16:
      return filter_units<HalfElement>(p, begin, end);
    case Element::kBFloat16:
      return filter_units<BFloat16Element>(p, begin, end);
  }
}

}  // namespace sdd
