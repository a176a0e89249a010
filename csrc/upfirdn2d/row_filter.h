// Output rows of upfirdn2d in one pass over memory.
//
// Rows are done in strips. A separable filter is applied to columns first: the input rows of an
// output row, which are in the cache because the rows before needed most of them, are added up into
// a line that stays in the first-level cache, with zeros where the image is padded; the lines of a
// strip are then filtered into the output. (One line at a time would be read back before it has
// left the store buffer.) Of a 2-D filter, the lines are the input rows themselves. Wide images are
// done in blocks of columns. Formulas: upfirdn2d.h.
#pragma once

#include "../common/elements.h"
#include "buffer.h"
#include "upfirdn2d_kernel.h"

namespace sdd {
namespace {

constexpr int64_t kBlock = 16384;     // outputs of a block of columns, about,
constexpr int64_t kBlockPixels = 16;  // and at least so many pixels
constexpr int64_t kStrip = 8;         // output rows of a strip, at most
constexpr int64_t kLines = 8192;      // elements in the lines of a strip, about
constexpr int64_t kLongStep = 4;      // inputs between outputs of a phase that are taken alone

// sum_{r < outer} sum_{j < inner} weight[r, j] x[r outer_stride + j inner_stride]
template <class T>
struct Terms {
  const T* weight;
  int64_t outer, weight_stride, outer_stride;
  int64_t inner, inner_stride;
  bool from_zero;  // the sum begins with 0, not with the first product: it is rounded otherwise
};

// The sum as a function of x: of one element or of a vector of neighbors. K: the number of terms
// where it is known (outer = 1), negative from zero, else 0. The weights of so few terms are kept
// in registers; read from memory they would be read again after every store, which might have
// changed them.
template <int K, class From>
struct Sum {
  using T = typename From::Compute;
  using V = typename From::Vector;
  using Stored = typename From::Stored;
  const Terms<T> terms;
  static constexpr int kTerms = K < 0 ? -K : K;
  T weight[kTerms > 0 ? kTerms : 1];

  SDD_FN explicit Sum(const Terms<T>& t) : terms(t) {
    for (int j = 0; j < kTerms; ++j) weight[j] = t.weight[j];
  }
  SDD_FN V vector(const Stored* x) const {
    return of<V>(x, [](const Stored* p) { return From::vector(p); });
  }
  SDD_FN T scalar(const Stored* x) const {
    return of<T>(x, [](const Stored* p) { return From::value(p); });
  }

 private:
  template <class Result, class Read>
  SDD_FN Result of(const Stored* x, const Read& read) const {
    if constexpr (K > 0) {
      Result sum = weight[0] * read(x);
      for (int j = 1; j < K; ++j) sum += weight[j] * read(x + j * terms.inner_stride);
      return sum;
    } else if constexpr (K < 0) {
      Result sum{};
      for (int j = 0; j < kTerms; ++j) sum += weight[j] * read(x + j * terms.inner_stride);
      return sum;
    } else {
      Result sum{};
      for (int64_t r = 0; r < terms.outer; ++r) {
        const Stored* row = x + r * terms.outer_stride;
        const T* row_weight = terms.weight + r * terms.weight_stride;
        for (int64_t j = 0; j < terms.inner; ++j) {
          sum += row_weight[j] * read(row + j * terms.inner_stride);
        }
      }
      return sum;
    }
  }
};

// Calls body(k) with K of a Sum as k.value.
template <class T, class Body>
SDD_FN void with_count(const Terms<T>& t, const Body& body) {
  const int64_t count = t.outer == 1 ? t.inner : 0;
  if (t.from_zero && count == 4) return body(Count<-4>{});
  if (t.from_zero && count == 2) return body(Count<-2>{});
  if (t.from_zero) return body(Count<0>{});
  if (count == 4) return body(Count<4>{});
  if (count == 3) return body(Count<3>{});
  if (count == 2) return body(Count<2>{});
  if (count == 1) return body(Count<1>{});
  return body(Count<0>{});
}

// y[i] = the sum at x + i, for i < n. The last vector overlaps the one before.
template <int K, class From, class To>
SDD_FN void sum_run(typename To::Stored* y, const typename From::Stored* x, const Sum<K, From>& sum,
                    int64_t n) {
  constexpr int64_t width = lanes<typename From::Compute>;
  if (n < width) {
    for (int64_t i = 0; i < n; ++i) To::put(y + i, sum.scalar(x + i));
    return;
  }
  int64_t i = 0;
  for (; i + width <= n; i += width) To::put(y + i, sum.vector(x + i));
  if (i < n) To::put(y + n - width, sum.vector(x + n - width));
}

template <class E>
class RowFilter {
  using Stored = typename E::Stored;
  using T = typename E::Compute;
  using Wide = PlainElement<T>;

 public:
  explicit RowFilter(const Upfirdn2dRows& p)
      : p_(p),
        separable_(p.row_taps != nullptr),
        narrow_(p.granule < lanes<T>),
        row_terms_(phase_terms(p.rows, 0)),
        column_terms_(phase_terms(p.columns, 0)),
        period_(p.columns.up / common_divisor(p.columns.up, p.columns.down)),
        advance_(p.columns.down / common_divisor(p.columns.up, p.columns.down)) {
    const int64_t row_size = row_terms_ * smaller(p.rows.up, p.rows.taps);
    column_size_ = column_terms_ * smaller(p.columns.up, p.columns.taps);
    const int64_t size = separable_ ? row_size + column_size_ : row_size * column_size_;
    weights_ = weight_buffer_.at_least(size);
    memset(weights_, 0, size * sizeof(T));
    column_weights_ = weights_ + row_size;
    for (int64_t a = 0; a < p.rows.taps; ++a) {
      const int64_t row_slot = a % p.rows.up * row_terms_ + a / p.rows.up;
      if (separable_) weights_[row_slot] = T(p.row_taps[a]);
      for (int64_t b = 0; b < p.columns.taps; ++b) {
        const int64_t column_slot = b % p.columns.up * column_terms_ + b / p.columns.up;
        if (!separable_) {
          weights_[row_slot * column_size_ + column_slot] =
              T(p.column_taps[a * p.columns.taps + b]);
        } else if (a == 0) {
          column_weights_[column_slot] = T(p.column_taps[b]);
        }
      }
    }
  }

  // Rows begin ... end - 1, counted through all planes.
  void run(int64_t begin, int64_t end) {
    const int64_t out = p_.columns.out, up = p_.columns.up;
    const int64_t pixels =
        larger(1, larger(kBlockPixels, kBlock / p_.granule) * up / larger(up, p_.columns.down));
    const bool whole = out <= 2 * pixels;
    if (whole && first_ == last_) start_block(0, out);
    for (int64_t first = begin; first < end;) {
      const int64_t plane = first / p_.rows.out;
      const int64_t last = smaller(end, (plane + 1) * p_.rows.out);
      for (int64_t column = 0; column < out; column += whole ? out : pixels) {
        if (!whole) start_block(column, smaller(out, column + pixels));
        rows_of_plane(plane, first - plane * p_.rows.out, last - plane * p_.rows.out);
      }
      first = last;
    }
  }

 private:
  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

  // The outputs [first, last) of every row, and the lines of inputs that they need.
  void start_block(int64_t first, int64_t last) {
    const ResampleAxis& c = p_.columns;
    first_ = first;
    last_ = last;
    line_begin_ = whole_window(c, first).index;
    const int64_t line_end = floor_div((last - 1) * c.down - c.pad + c.taps - 1, c.up) + 1;
    inside_begin_ = smaller(larger(line_begin_, 0), line_end);
    inside_end_ = larger(smaller(line_end, c.in), inside_begin_);
    line_ = larger(line_end - line_begin_, 0) * p_.granule + 2 * lanes<T>;
    int64_t lines;
    if (separable_) {
      lines = strip_ = larger(1, smaller(kStrip, kLines / line_));
    } else {
      strip_ = p_.rows.down <= 2 * p_.rows.up ? kStrip : 1;
      lines = (strip_ - 1) * p_.rows.down / p_.rows.up + row_terms_ + 1;
    }
    const int64_t phase = (last - first + 1) * smaller(advance_, kLongStep) * p_.granule;
    lines_ = line_buffer_.at_least(lines * line_ + phase);
    phase_line_ = lines_ + lines * line_;
    memset(lines_, 0, lines * line_ * sizeof(T));
  }

  void rows_of_plane(int64_t plane, int64_t begin, int64_t end) {
    const Stored* x = static_cast<const Stored*>(p_.x) + plane / p_.channels * p_.image_stride +
                      plane % p_.channels * p_.channel_stride + inside_begin_ * p_.pixel_stride;
    const int64_t y_row = p_.columns.out * p_.granule;
    Stored* y = static_cast<Stored*>(p_.y) + plane * p_.rows.out * y_row + first_ * p_.granule;
    for (int64_t row = begin; row < end; row += strip_) {
      const int64_t strip_end = smaller(row + strip_, end);
      if (separable_) {
        separable_strip(x, y, y_row, row, strip_end);
      } else {
        plane_strip(x, y, y_row, row, strip_end);
      }
    }
  }

  // Output rows [begin, end); x and y point to row 0 of the plane.
  void separable_strip(const Stored* x, Stored* y, int64_t y_row, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const ResampleWindow w = clipped_window(p_.rows, row);
      T* line = lines_ + (row - begin) * line_;
      const T* weight = weights_ + (w.count > 0 ? w.phase * row_terms_ + w.skip : 0);
      to_line(line, x + w.index * p_.row_stride,
              {weight, 1, 0, 0, w.count, p_.row_stride, w.skip > 0 || narrow_});
    }
    from_lines(y + begin * y_row, y_row, end - begin, lines_, 1, column_weights_, 0);
  }

  void plane_strip(const Stored* x, Stored* y, int64_t y_row, int64_t begin, int64_t end) {
    static constexpr T kOne = 1;
    const int64_t lowest = larger(whole_window(p_.rows, begin).index, 0);
    int64_t loaded = lowest;
    for (int64_t row = begin; row < end; ++row) {
      const ResampleWindow w = clipped_window(p_.rows, row);
      for (; loaded < w.index + w.count && w.count > 0; ++loaded) {
        to_line(lines_ + (loaded - lowest) * line_, x + loaded * p_.row_stride,
                {&kOne, 1, 0, 0, 1, 0, narrow_});
      }
      const int64_t slot = w.count > 0 ? w.phase * row_terms_ + w.skip : 0;
      const T* line = w.count > 0 ? lines_ + (w.index - lowest) * line_ : lines_;
      from_lines(y + row * y_row, y_row, 1, line, w.count, weights_ + slot * column_size_,
                 column_size_);
    }
  }

  // The part of a line inside the image: sums of input rows, wide.
  void to_line(T* line, const Stored* x, const Terms<T>& t) {
    T* to = line + (inside_begin_ - line_begin_) * p_.granule;
    const int64_t count = inside_end_ - inside_begin_;
    const int64_t g = p_.granule;
    with_count(t, [&](auto k) {
      const Sum<k.value, E> sum(t);
      if (p_.pixel_stride == g) return sum_run<k.value, E, Wide>(to, x, sum, count * g);
      for (int64_t i = 0; i < count; ++i) {
        sum_run<k.value, E, Wide>(to + i * g, x + i * p_.pixel_stride, sum, g);
      }
    });
  }

  // `rows` rows of outputs, each from `outer` neighboring lines beginning one line after those of
  // the row before; weight: by column phase.
  void from_lines(Stored* y, int64_t y_row, int64_t rows, const T* line, int64_t outer,
                  const T* weight, int64_t weight_stride) {
    const int64_t g = p_.granule;
    const int64_t n = last_ - first_;
    const auto terms = [&](int64_t output) -> Terms<T> {
      const ResampleWindow w = whole_window(p_.columns, output);
      const int64_t slot = w.count > 0 ? w.phase * column_terms_ : 0;
      return {weight + slot, outer, weight_stride, line_, w.count, g, narrow_};
    };
    const auto offset = [&](int64_t output) {
      return (whole_window(p_.columns, output).index - line_begin_) * g;
    };
    const Terms<T> t0 = terms(first_);
    if (period_ == 1 && advance_ == 1) {
      return with_count(t0, [&](auto k) {
        const Sum<k.value, Wide> sum(t0);
        for (int64_t r = 0; r < rows; ++r) {
          sum_run<k.value, Wide, E>(y + r * y_row, line + r * line_, sum, n * g);
        }
      });
    }
    for (int64_t q = 0; q < smaller(period_, n); ++q) {
      const Terms<T> t = terms(first_ + q);
      const T* from = line + offset(first_ + q);
      const int64_t count = (n - q - 1) / period_ + 1;
      with_count(t, [&](auto k) {
        const Sum<k.value, Wide> sum(t);
        for (int64_t r = 0; r < rows; ++r) {
          Stored* to = y + r * y_row + q * g;
          if (g < lanes<T> && advance_ < kLongStep) {
            sum_run<k.value, Wide, Wide>(phase_line_, from + r * line_, sum,
                                         ((count - 1) * advance_ + 1) * g);
            spread(to, count);
          } else {
            for (int64_t m = 0; m < count; ++m) {
              sum_run<k.value, Wide, E>(to + m * period_ * g, from + r * line_ + m * advance_ * g,
                                        sum, g);
            }
          }
        }
      });
    }
  }

  // Every advance_-th pixel of a phase to its place.
  void spread(Stored* y, int64_t count) const {
    const int64_t step = advance_ * p_.granule;
    const auto copy = [&](int64_t g) __attribute__((always_inline)) {
      for (int64_t m = 0; m < count; ++m) {
        for (int64_t c = 0; c < g; ++c) E::put(y + m * period_ * g + c, phase_line_[m * step + c]);
      }
    };
    p_.granule == 3 ? copy(3) : copy(p_.granule);  // an RGB image
  }

  const Upfirdn2dRows& p_;
  const bool separable_;
  const bool narrow_;                       // pixels of less than a vector
  const int64_t row_terms_, column_terms_;  // of one phase, at most
  const int64_t period_, advance_;          // of (4), along a row
  Buffer<T> weight_buffer_, line_buffer_;
  T* weights_;         // by phase and term: rows, or [rows, columns] of a 2-D filter
  T* column_weights_;  // by phase and term, of a separable filter
  int64_t column_size_;
  // The block of columns:
  int64_t first_ = 0, last_ = 0;       // outputs
  int64_t line_begin_;                 // input column at which a line begins
  int64_t inside_begin_, inside_end_;  // input columns of the line that the image has
  int64_t line_;                       // elements from line to line
  int64_t strip_;                      // output rows of a strip
  T* lines_;
  T* phase_line_;
};

}  // namespace
}  // namespace sdd
