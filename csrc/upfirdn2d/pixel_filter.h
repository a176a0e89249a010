// upfirdn2d of pixels of many neighbouring numbers (all channels of a channels_last image, or the
// same pixel of planes turned round together) by a separable filter of four taps, with factors 1
// and 2: what StyleGAN2 does.
//
// A few output rows are done together, pixel by pixel. Every input is loaded once for all of them
// and added up by columns; the sums of the last few pixels are kept, and their sums are the
// outputs. Pixels of few numbers are done a vector at a time, and their sums kept in registers. Of
// larger ones, all numbers are done before the next pixel, so that memory is read in its order, and
// the sums kept in the first-level cache.
//
// Formulas: upfirdn2d.h.
#pragma once

#include "../common/elements.h"
#include "buffer.h"
#include "upfirdn2d_kernel.h"

namespace sdd {
namespace {

template <class E>
class PixelFilter {
  using Stored = typename E::Stored;
  using T = typename E::Compute;
  using V = typename E::Vector;
  static constexpr int64_t kWidth = lanes<T>;
  static constexpr int kTaps = 4;
  static constexpr int kRegisterRows = 4, kCachedRows = 2;      // output rows together
  static constexpr int64_t kInRegisters = kPlanesTogether;      // numbers of a pixel, at most
  static constexpr int64_t kChunk = 2048 / int64_t(sizeof(T));  // of larger pixels, done together:
                                                                // their sums take 16 KiB
  static constexpr int64_t kBlock = 16384;     // numbers in a block of input columns, about,
  static constexpr int64_t kBlockPixels = 16;  // and at least so many pixels

 public:
  static bool can(const Upfirdn2d& p) {
    return p.row_taps != nullptr && p.rows.taps == kTaps && p.rows.up * p.rows.down <= 2 &&
           p.granule >= kWidth;
  }

  explicit PixelFilter(const Upfirdn2d& p) : p_(p), chunk_(smaller(p.granule, kChunk)) {
    for (int a = 0; a < kTaps; ++a) {
      row_weights_[a % p.rows.up][a / p.rows.up] = T(p.row_taps[a]);
      column_weights_[a % p.rows.up][a / p.rows.up] = T(p.column_taps[a]);
    }
    if (p.granule <= kInRegisters) return;
    const int64_t size = kTaps * kCachedRows * chunk_;
    ring_ = buffer_.at_least(size);
    memset(ring_, 0, size * sizeof(T));
    zeros_ = stored_buffer_.at_least(2 * chunk_);
    unwanted_ = zeros_ + chunk_;
    memset(zeros_, 0, chunk_ * sizeof(Stored));
  }

  // Rows begin ... end - 1, counted through all planes.
  void run(int64_t begin, int64_t end) {
    if (p_.rows.up == 2) return planes<2, 1>(begin, end);
    return p_.rows.down == 2 ? planes<1, 2>(begin, end) : planes<1, 1>(begin, end);
  }

 private:
  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

  // (4): where the window of output i begins, if that of output 0 does so at 0, with phase 0.
  template <int Up, int Down>
  static constexpr int first_input(int i) {
    return (i * Down + Up - 1) / Up;
  }

  // The outputs of a step along a row are summed from the sums of `kept` columns, of which `fresh`
  // are new.
  template <int Up, int Down>
  struct Step {
    static constexpr int terms = kTaps / Up;  // of a phase
    static constexpr int outputs = Up;
    static constexpr int fresh = Down;
    static constexpr int kept = first_input<Up, Down>(outputs - 1) + terms;
  };

  // Rows first + [begin, end) of a plane, which is at x and y; the first one has phase 0.
  struct Group {
    const Stored* x;
    Stored* y;
    int64_t first, begin, end;
  };

  template <int Up, int Down>
  void planes(int64_t begin, int64_t end) {
    const int64_t rows = p_.rows.out;
    for (int64_t first = begin; first < end;) {
      const int64_t plane = first / rows;
      const int64_t row = first - plane * rows, last = smaller(end - plane * rows, rows);
      const Group group{static_cast<const Stored*>(p_.x) + plane / p_.channels * p_.image_stride +
                            plane % p_.channels * p_.channel_stride,
                        static_cast<Stored*>(p_.y) + plane * rows * p_.columns.out * p_.granule,
                        row - whole_window(p_.rows, row).phase, row, last};
      if (p_.granule <= kInRegisters) {
        each_group<kRegisterRows>(group, [&](const Group& some) {
          for (int64_t c = 0; c < p_.granule; c += kWidth) {
            in_registers<Up, Down>(some, smaller(c, p_.granule - kWidth));
          }
        });
      } else {
        const int64_t out = p_.columns.out;
        const int64_t wanted = larger(kBlockPixels, kBlock / p_.granule) * Up / Down;
        const int64_t pixels = out <= 2 * wanted ? out : wanted;
        for (int64_t column = 0; column < out; column += pixels) {
          each_group<kCachedRows>(group, [&](const Group& some) {
            for (int64_t c = 0; c < p_.granule; c += chunk_) {
              in_cache<Up, Down>(some, smaller(c, p_.granule - chunk_), column,
                                 smaller(column + pixels, out));
            }
          });
        }
      }
      first = plane * rows + last;
    }
  }

  template <int kRows, class Body>
  static void each_group(Group all, const Body& body) {
    for (int64_t first = all.first; first < all.end; first += kRows) {
      body(Group{all.x, all.y, first, larger(all.begin - first, 0),
                 smaller(all.end - first, kRows)});
    }
  }

  template <int Up, int Down>
  struct Weights {
    V row[Up][kTaps / Up], column[Up][kTaps / Up];
    SDD_FN explicit Weights(const PixelFilter& f) {
      for (int a = 0; a < kTaps; ++a) {
        row[a % Up][a / Up] = f.row_weights_[a % Up][a / Up] - V{};
        column[a % Up][a / Up] = f.column_weights_[a % Up][a / Up] - V{};
      }
    }
    // Of output i, from inputs or sums that begin with those of output 0.
    SDD_FN V row_sum(int i, const V* in) const { return sum(i, row, in, 1); }
    SDD_FN V column_sum(int i, const V* in, int step) const { return sum(i, column, in, step); }

   private:
    SDD_FN static V sum(int i, const V (&weight)[Up][kTaps / Up], const V* in, int step) {
      const int first = first_input<Up, Down>(i), phase = first * Up - i * Down;
      V sum = weight[phase][0] * in[first * step];
      for (int k = 1; k < kTaps / Up; ++k) sum += weight[phase][k] * in[(first + k) * step];
      return sum;
    }
  };

  // The vector at number `at` of all outputs.
  template <int Up, int Down>
  void in_registers(const Group& group, int64_t at) {
    const int64_t top = whole_window(p_.rows, group.first).index;
    const int64_t stride = p_.row_stride, in = p_.rows.in;
    const Stored* x = group.x + top * stride + at;
    const auto inside = [=](int64_t r, int64_t offset) __attribute__((always_inline)) {
      return E::vector(x + r * stride + offset);
    };
    const auto any = [=](int64_t r, int64_t offset) __attribute__((always_inline)) {
      return top + r >= 0 && top + r < in ? E::vector(x + r * stride + offset) : V{};
    };
    constexpr int shared = first_input<Up, Down>(kRegisterRows - 1) + kTaps / Up;
    if (top >= 0 && top + shared <= in) {
      in_registers<Up, Down>(group, at, inside);
    } else {
      in_registers<Up, Down>(group, at, any);
    }
  }

  template <int Up, int Down, class Read>
  SDD_FN void in_registers(const Group& group, int64_t at, const Read& read) {
    using S = Step<Up, Down>;
    constexpr int shared = first_input<Up, Down>(kRegisterRows - 1) + S::terms;
    const Weights<Up, Down> weights(*this);
    const int64_t pixel = p_.pixel_stride, g = p_.granule, in = p_.columns.in;
    const int64_t out = p_.columns.out, y_row = out * g, begin = group.begin, end = group.end;
    Stored* y = group.y + group.first * y_row + at;
    const ResampleWindow w = whole_window(p_.columns, 0);
    V sums[S::kept][kRegisterRows] = {};
    // As with the rows, the first output of a step has phase 0.
    int64_t o = -w.phase - (S::kept - S::fresh) / S::fresh * S::outputs;
    int64_t column = w.index - w.phase;
    for (; o < out; o += S::outputs) {
      for (int k = 0; k < S::kept - S::fresh; ++k) {
        for (int i = 0; i < kRegisterRows; ++i) sums[k][i] = sums[k + S::fresh][i];
      }
      for (int f = 0; f < S::fresh; ++f, ++column) {
        V(&sum)[kRegisterRows] = sums[S::kept - S::fresh + f];
        if (column < 0 || column >= in) {
          for (int i = 0; i < kRegisterRows; ++i) sum[i] = V{};
          continue;
        }
        V from[shared];
        for (int r = 0; r < shared; ++r) from[r] = read(r, column * pixel);
        for (int i = 0; i < kRegisterRows; ++i) sum[i] = weights.row_sum(i, from);
      }
      for (int q = 0; q < S::outputs; ++q) {
        if (o + q < 0 || o + q >= out) continue;
        for (int i = 0; i < kRegisterRows; ++i) {
          if (i < begin || i >= end) continue;
          E::put(y + i * y_row + (o + q) * g, weights.column_sum(q, &sums[0][i], kRegisterRows));
        }
      }
    }
  }

  // The chunk from number `at` on of the outputs [o_begin, o_end).
  template <int Up, int Down>
  void in_cache(const Group& group, int64_t at, int64_t o_begin, int64_t o_end) {
    using S = Step<Up, Down>;
    constexpr int shared = first_input<Up, Down>(kCachedRows - 1) + S::terms;
    const Weights<Up, Down> weights(*this);
    const int64_t g = p_.granule, chunk = chunk_, stride = p_.row_stride, pixel = p_.pixel_stride;
    const int64_t y_row = p_.columns.out * g;
    const int64_t top = whole_window(p_.rows, group.first).index;
    const ResampleWindow w = whole_window(p_.columns, o_begin);
    T* ring[S::kept];
    for (int k = 0; k < S::kept; ++k) ring[k] = ring_ + k * kCachedRows * chunk;
    int64_t o = o_begin - w.phase - (S::kept - S::fresh) / S::fresh * S::outputs;
    int64_t column = w.index - w.phase;
    for (; o < o_end; o += S::outputs, column += S::fresh) {
      const Stored* x[S::fresh][shared];
      for (int f = 0; f < S::fresh; ++f) {
        const bool inside = column + f >= 0 && column + f < p_.columns.in;
        const Stored* from = group.x + top * stride + (column + f) * pixel + at;
        for (int r = 0; r < shared; ++r) {
          x[f][r] = inside && top + r >= 0 && top + r < p_.rows.in ? from + r * stride : zeros_;
        }
      }
      Stored* y[S::outputs][kCachedRows];
      for (int q = 0; q < S::outputs; ++q) {
        const bool inside = o + q >= o_begin && o + q < o_end;
        Stored* to = group.y + group.first * y_row + (o + q) * g + at;
        for (int i = 0; i < kCachedRows; ++i) {
          y[q][i] = inside && i >= group.begin && i < group.end ? to + i * y_row : unwanted_;
        }
      }
      for (int64_t start = 0; start < chunk; start += kWidth) {
        const int64_t c = smaller(start, chunk - kWidth);
        V sums[S::kept][kCachedRows];
        for (int k = 0; k < S::kept - S::fresh; ++k) {
          for (int i = 0; i < kCachedRows; ++i) sums[k][i] = load(ring[k] + i * chunk + c);
        }
        for (int f = 0; f < S::fresh; ++f) {
          const int k = S::kept - S::fresh + f;
          V from[shared];
          for (int r = 0; r < shared; ++r) from[r] = E::vector(x[f][r] + c);
          for (int i = 0; i < kCachedRows; ++i) {
            sums[k][i] = weights.row_sum(i, from);
            PlainElement<T>::put(ring[k] + i * chunk + c, sums[k][i]);
          }
        }
        for (int q = 0; q < S::outputs; ++q) {
          for (int i = 0; i < kCachedRows; ++i) {
            E::put(y[q][i] + c, weights.column_sum(q, &sums[0][i], kCachedRows));
          }
        }
      }
      T* next[S::kept];
      for (int k = 0; k < S::kept; ++k) next[k] = ring[(k + S::fresh) % S::kept];
      for (int k = 0; k < S::kept; ++k) ring[k] = next[k];
    }
  }

  const Upfirdn2d& p_;
  const int64_t chunk_;                                 // numbers of a pixel in a ring
  T row_weights_[2][kTaps], column_weights_[2][kTaps];  // by phase
  Buffer<T> buffer_;
  T* ring_ = nullptr;  // sums of the last columns: [columns, rows, chunk]
  Buffer<Stored> stored_buffer_;
  Stored *zeros_ = nullptr, *unwanted_ = nullptr;  // pixels outside the image and the result
};

}  // namespace
}  // namespace sdd
