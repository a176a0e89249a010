// upfirdn2d of planes by a separable filter of few taps, with factors 1 and 2.
//
// First columns, then rows, for a strip of output rows at a time, through as many planes as it
// takes: one line of sums for each row, in the first-level cache. What a short row costs besides
// its elements is saved by never treating its end apart:
//
// - Four lines are summed from the input rows that their windows share, each loaded once. Up to
//   three of them in vain: the next plane's are written over those.
// - Vectors run over the ends of input rows. What they fetched there becomes zero in the line, and
//   so does the padding, because lines begin and end with zeros.
// - Vectors run over the ends of output rows; the next row is written after that. Only what would
//   run over the end of the last row is put apart.
//
// Formulas: upfirdn2d.h.
#pragma once

#include "../common/elements.h"
#include "../common/simd.h"
#include "buffer.h"
#include "upfirdn2d_kernel.h"

namespace sdd {
namespace {

constexpr int64_t kStripElements = 4096;  // in the lines of a strip, about
constexpr int64_t kStripRows = 64;        // and at most so many of them
constexpr int kGroup = 4;                 // lines summed together
constexpr int64_t kLineTaps = 32;         // of a filter, at most

template <class E>
class LineFilter {
  using Stored = typename E::Stored;
  using T = typename E::Compute;
  using V = typename E::Vector;
  using Bits = typename Real<V>::Bits;
  using Lanes = Shuffle<T>;
  static constexpr int64_t kWidth = lanes<T>;

 public:
  static bool can(const Upfirdn2dRows& p) {
    return p.row_taps != nullptr && p.rows.taps <= kLineTaps && p.rows.up * p.rows.down <= 2 &&
           p.granule == 1 && p.pixel_stride == 1;
  }

  explicit LineFilter(const Upfirdn2dRows& p) : p_(p) {
    const ResampleAxis& c = p.columns;
    const int64_t begin = whole_window(c, 0).index;
    const int64_t end = floor_div((c.out - 1) * c.down - c.pad + c.taps - 1, c.up) + 1;
    inside_begin_ = smaller(larger(begin, 0), larger(begin, end));
    inside_end_ = larger(smaller(end, c.in), inside_begin_);
    vectors_ = round_up(inside_end_ - inside_begin_) / kWidth;
    const int64_t before = inside_begin_ - begin;
    data_ = round_up(before);
    first_window_ = data_ - before;
    // The zeros before the elements of a line are those behind the line before, too.
    line_ = round_up(larger(data_ + vectors_ * kWidth, larger(end - inside_begin_, 1)));
    strip_ = larger(kGroup, smaller(kStripRows, kStripElements / line_) / kGroup * kGroup);

    const int64_t reach = data_ + 2 * c.down * (round_up(c.out) + 2 * kWidth) + c.taps;
    const int64_t lines = (strip_ + kGroup) * line_ + reach;
    lines_ = line_buffer_.at_least(lines);
    memset(lines_, 0, lines * sizeof(T));
    for (int64_t i = 0; i < kWidth; ++i) {
      tail_[i] =
          inside_begin_ + (vectors_ - 1) * kWidth + i < inside_end_ ? ~typename Real<T>::Bits{} : 0;
    }
    const int64_t most_rows = (strip_ + kGroup) * p.rows.down / p.rows.up + p.rows.taps + 2;
    copies_ = copy_buffer_.at_least(larger(most_rows * vectors_ * kWidth, 1));

    for (int64_t a = 0; a < p.rows.taps; ++a) {
      row_weights_[a % p.rows.up][a / p.rows.up] = T(p.row_taps[a]);
    }
    for (int64_t b = 0; b < c.taps; ++b) {
      column_weights_[b % c.up][b / c.up] = T(p.column_taps[b]);
    }
  }

  // Rows begin ... end - 1, counted through all planes.
  void run(int64_t begin, int64_t end) {
    const int64_t out = p_.columns.out, rows = p_.rows.out;
    Stored* y = static_cast<Stored*>(p_.y);
    int64_t image = begin / rows / p_.channels, channel = begin / rows % p_.channels;
    int64_t row = begin % rows;
    for (int64_t first = begin; first < end; first += strip_) {
      const int64_t lines = smaller(strip_, end - first);
      for (int64_t done = 0; done < lines;) {
        const int64_t count = smaller(lines - done, rows - row);
        find_windows(row, count);
        const int64_t offset = image * p_.image_stride + channel * p_.channel_stride +
                               inside_rows_begin_ * p_.row_stride + inside_begin_;
        sum_columns(lines_ + done * line_ + data_, offset);
        done += count;
        row += count;
        if (row == rows) {
          row = 0;
          if (++channel == p_.channels) channel = 0, ++image;
        }
      }
      filter_lines(y + first * out, lines, y + end * out);
    }
  }

 private:
  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
  static int64_t round_up(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

  // Of `count` lines from output row `first` of a plane on: the same for many planes in turn.
  void find_windows(int64_t first, int64_t count) {
    if (first == first_ && count == count_) return;
    first_ = first;
    count_ = count;
    const int64_t up = p_.rows.up, down = p_.rows.down;
    const auto index = [=](int64_t pixel) { return (pixel + up - 1) >> (up - 1); };  // (2)
    const int64_t start = first * down - p_.rows.pad;
    rows_begin_ = index(start);
    phase_ = rows_begin_ * up - start;
    rows_end_ = index(start + (round_up_group(count) - 1) * down) + index(p_.rows.taps);
    inside_rows_begin_ = smaller(larger(rows_begin_, 0), rows_end_);
    inside_rows_end_ = larger(smaller(rows_end_, p_.rows.in), inside_rows_begin_);
  }
  static int64_t round_up_group(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

  // These lines, from the input rows `offset` elements behind x, inside the image.
  void sum_columns(T* line, int64_t offset) {
    const Stored* x = static_cast<const Stored*>(p_.x) + offset;
    int64_t stride = p_.row_stride;
    const int64_t rows = inside_rows_end_ - inside_rows_begin_;
    if (offset + (rows - 1) * stride + vectors_ * kWidth > p_.x_size) {
      // Vectors would run over the end of x.
      for (int64_t row = 0; row < rows; ++row) {
        memcpy(copies_ + row * vectors_ * kWidth, x + row * stride,
               (inside_end_ - inside_begin_) * sizeof(Stored));
      }
      x = copies_;
      stride = vectors_ * kWidth;
    }
    const int64_t up = p_.rows.up, down = p_.rows.down;
    if (p_.rows.taps == 4) {
      if (down == 2) return sum_groups<1, 2, 4, 0>(line, x, stride);
      if (up == 1) return sum_groups<1, 1, 4, 0>(line, x, stride);
      if (phase_ == 0) return sum_groups<2, 1, 2, 0>(line, x, stride);
      return sum_groups<2, 1, 2, 1>(line, x, stride);
    }
    for (int64_t i = 0; i < count_; ++i, line += line_) {
      const int64_t from = (i * down - phase_ + up - 1) >> (up - 1);  // (2), up is 1 or 2
      const int64_t phase = from * up - i * down + phase_;
      const int64_t row = rows_begin_ - inside_rows_begin_ + from;
      const int64_t begin = larger(0, -row), end = smaller(phase_terms(p_.rows, phase), rows - row);
      for (int64_t v = 0; v < vectors_; ++v) {
        V sum{};
        for (int64_t k = begin; k < end; ++k) {
          sum += row_weights_[phase][k] * E::vector(x + (row + k) * stride + v * kWidth);
        }
        put_line(line + v * kWidth, sum, mask(v));
      }
    }
  }

  Bits mask(int64_t v) const {
    Bits bits;
    memcpy(&bits, tail_, sizeof(bits));
    return v + 1 < vectors_ ? ~Bits{} : bits;
  }
  static void put_line(T* line, V sum, Bits mask) {
    PlainElement<T>::put(line, Real<V>::from_bits(Real<V>::bits(sum) & mask));
  }

  // (4): the first window has phase `Phase`, and every phase has K terms.
  template <int Up, int Down, int K, int Phase>
  void sum_groups(T* line, const Stored* x, int64_t stride) {
    constexpr auto offset = [](int i) { return (i * Down - Phase + Up - 1) / Up; };
    constexpr int shared = offset(kGroup - 1) + K;
    V weight[Up][K];
    for (int phase = 0; phase < Up; ++phase) {
      for (int k = 0; k < K; ++k) weight[phase][k] = row_weights_[phase][k] - V{};
    }
    const int64_t vectors = vectors_, to = line_, count = count_;
    const int64_t rows = inside_rows_end_ - inside_rows_begin_;
    int64_t row = rows_begin_ - inside_rows_begin_;
    const auto group = [&](const auto& read) __attribute__((always_inline)) {
      for (int64_t v = 0; v < vectors; ++v) {
        const Bits keep = mask(v);
        V in[shared];
        for (int r = 0; r < shared; ++r) in[r] = read(r, v * kWidth);
        for (int i = 0; i < kGroup; ++i) {
          const int phase = offset(i) * Up - i * Down + Phase;
          V sum = weight[phase][0] * in[offset(i)];
          for (int k = 1; k < K; ++k) sum += weight[phase][k] * in[offset(i) + k];
          put_line(line + i * to + v * kWidth, sum, keep);
        }
      }
    };
    for (int64_t done = 0; done < count; done += kGroup) {
      const Stored* from = x + row * stride;
      if (row >= 0 && row + shared <= rows) {
        group([&](int r, int64_t i)
                  __attribute__((always_inline)) { return E::vector(from + r * stride + i); });
      } else {
        group([&](int r, int64_t i) __attribute__((always_inline)) {
          const bool inside = row + r >= 0 && row + r < rows;
          return inside ? E::vector(from + r * stride + i) : V{};
        });
      }
      line += kGroup * to;
      row += kGroup * Down / Up;
    }
  }

  // `count` rows at y from the lines of the strip; nothing is written from y_end on.
  void filter_lines(Stored* y, int64_t count, const Stored* y_end) {
    const ResampleAxis& c = p_.columns;
    const ResampleWindow w = whole_window(c, 0);
    if (c.up == 1 && c.down == 1) {
      return c.taps == 4 ? lines_same<4>(y, count, y_end) : lines_same<0>(y, count, y_end);
    }
    if (c.up == 1) {
      return c.taps == 4 ? lines_down2<4>(y, count, y_end) : lines_down2<0>(y, count, y_end);
    }
    return c.taps == 4 ? lines_up2<2>(y, count, y_end, w) : lines_up2<0>(y, count, y_end, w);
  }

  template <int K>
  void lines_same(Stored* y, int64_t count, const Stored* y_end) {
    const Weights<K> weight(column_weights_[0], p_.columns.taps);
    each_line<1>(y, count, y_end,
                 [&](Stored* to, const T* line, int64_t i) { E::put(to, weight.sum(line + i)); });
  }

  template <int K>
  void lines_down2(Stored* y, int64_t count, const Stored* y_end) {
    const Weights<K> weight(column_weights_[0], p_.columns.taps);
    each_line<1>(y, count, y_end, [&](Stored* to, const T* line, int64_t i) {
      V sum{};
      for (int j = 0; j < weight.count(); j += 2) {
        const T* from = line + 2 * i + j;
        const V a = load(from), b = load(from + kWidth);
        sum += weight[j] * Lanes::even(a, b);
        if (j + 1 < weight.count()) sum += weight[j + 1] * Lanes::odd(a, b);
      }
      E::put(to, sum);
    });
  }

  template <int K>
  void lines_up2(Stored* y, int64_t count, const Stored* y_end, const ResampleWindow& w) {
    const ResampleWindow next = whole_window(p_.columns, 1);
    const Weights<K> even(column_weights_[w.phase], w.count);
    const Weights<K> odd(column_weights_[next.phase], next.count);
    const int64_t shift = next.index - w.index;
    each_line<2>(y, count, y_end, [&](Stored* to, const T* line, int64_t i) {
      const V a = even.sum(line + i / 2), b = odd.sum(line + i / 2 + shift);
      E::put(to, Lanes::zip_low(a, b));
      E::put(to + kWidth, Lanes::zip_high(a, b));
    });
  }

  // K weights in registers, or any number of them in memory.
  template <int K>
  struct Weights {
    V own[K > 0 ? K : 1];
    const T* all;
    int64_t n;
    Weights(const T* weights, int64_t count) : all(weights), n(count) {
      for (int k = 0; k < K; ++k) own[k] = weights[k] - V{};
    }
    SDD_FN int64_t count() const { return K > 0 ? K : n; }
    SDD_FN V operator[](int64_t k) const { return K > 0 ? own[k] : all[k] - V{}; }
    SDD_FN V sum(const T* x) const {
      if constexpr (K > 0) {
        V sum = own[0] * load(x);
        for (int k = 1; k < K; ++k) sum += own[k] * load(x + k);
        return sum;
      } else {
        V sum{};
        for (int64_t k = 0; k < n; ++k) sum += all[k] * load(x + k);
        return sum;
      }
    }
  };

  // Calls vectors(to, line, i) for every kVectors * kWidth outputs, from the i-th on.
  template <int kVectors, class Vectors>
  SDD_FN void each_line(Stored* y, int64_t count, const Stored* y_end, const Vectors& vectors) {
    constexpr int64_t step = kVectors * kWidth;
    const int64_t out = p_.columns.out, over = (out + step - 1) / step * step;
    const T* line = lines_ + first_window_;
    const int64_t space = y_end - y - over;
    const int64_t safe = space < 0 ? 0 : smaller(count, space / out + 1);
    for (int64_t r = 0; r < safe; ++r, y += out, line += line_) {
      int64_t i = 0;
      do vectors(y + i, line, i);
      while ((i += step) < out);
    }
    for (int64_t r = safe; r < count; ++r, y += out, line += line_) {
      int64_t i = 0;
      for (; i + step <= out; i += step) vectors(y + i, line, i);
      if (i < out) {
        Stored last[step];
        vectors(last, line, i);
        memcpy(y + i, last, (out - i) * sizeof(Stored));
      }
    }
  }

  const Upfirdn2dRows& p_;
  int64_t inside_begin_, inside_end_;  // input columns of a line that the image has
  int64_t vectors_;                    // for them
  int64_t data_;                       // where they begin in a line
  int64_t first_window_;               // where the window of output 0 begins in a line
  int64_t line_;                       // elements from line to line
  int64_t strip_;                      // output rows of a strip
  // The lines of one plane in a strip, and the input rows of their windows:
  int64_t first_ = -1, count_ = -1;
  int64_t phase_;                                // of the first line
  int64_t rows_begin_, rows_end_;                // above and below the image, too
  int64_t inside_rows_begin_, inside_rows_end_;  // in the image
  T* lines_;
  Stored* copies_;                                              // of input rows
  T row_weights_[2][kLineTaps], column_weights_[2][kLineTaps];  // by phase
  typename Real<T>::Bits tail_[kWidth];  // lanes of the last vector inside the image
  Buffer<T> line_buffer_;
  Buffer<Stored> copy_buffer_;
};

}  // namespace
}  // namespace sdd
