// What the CPU and the CUDA entries of demodulation share: checks, and how weights lie in memory.
// Against the stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "../common/element_of.h"
#include "../common/same_device.h"

namespace sdd {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// weight: [O, I, kh, kw], styles: [N, I]
inline void check_demodulation(const Tensor& weight, const Tensor& styles, double eps) {
  STD_TORCH_CHECK(weight.dim() == 4, "demodulation: weight must be [O, I, kh, kw], it has ",
                  weight.dim(), " dimensions");
  element_of("demodulation", weight);
  STD_TORCH_CHECK(styles.dim() == 2 && styles.size(1) == weight.size(1),
                  "demodulation: styles must be [N, I] with the I of weight");
  STD_TORCH_CHECK(same_device(styles, weight) && styles.scalar_type() == weight.scalar_type(),
                  "demodulation: styles must have the dtype and device of weight");
  STD_TORCH_CHECK(eps >= 0 && eps <= 1, "demodulation: eps must lie in [0, 1], got ", eps);
}

// Dimensions from the innermost to the outermost.
inline bool lies_as(const Tensor& w, const int (&order)[4]) {
  int64_t expected = 1;
  for (const int d : order) {
    if (w.size(d) != 1 && w.stride(d) != expected) return false;
    expected *= w.size(d);
  }
  return true;
}

// How weights [O, I, kh, kw] lie in memory, and so the energies made of them.
struct WeightLayout {
  Tensor weight;      // as it was given, or a contiguous copy
  bool turned;        // inputs outside outputs; the energies lie so too
  bool terms_inside;  // the numbers of a kernel are neighbours; else the kernel lies outside

  explicit WeightLayout(const Tensor& w) : weight(w), turned(false), terms_inside(true) {
    if (w.numel() > 0 && !lies_as(w, {3, 2, 1, 0})) {
      turned = !lies_as(w, {1, 3, 2, 0});
      terms_inside = turned && lies_as(w, {3, 2, 0, 1});
      if (turned && !terms_inside && !lies_as(w, {0, 3, 2, 1})) {
        weight = torch::stable::contiguous(w);
        turned = false, terms_inside = true;
      }
    }
    if (terms() == 1) terms_inside = false;
  }
  int64_t outer() const { return weight.size(turned ? 1 : 0); }
  int64_t inner() const { return weight.size(turned ? 0 : 1); }
  int64_t terms() const { return weight.size(2) * weight.size(3); }
  // Where the numbers of a kernel are neighbours, or there is one, everything lies in a single row.
  bool one_row() const { return terms_inside || terms() == 1; }
  int64_t rows() const { return one_row() ? 1 : outer(); }
  int64_t numbers() const { return one_row() ? outer() * inner() : inner(); }
};

// Of the energies [O, I] made of weights that lie like this.
struct EnergyStrides {
  int64_t strides[2];
  explicit EnergyStrides(const WeightLayout& layout)
      : strides{layout.turned ? 1 : std::max<int64_t>(1, layout.inner()),
                layout.turned ? std::max<int64_t>(1, layout.inner()) : 1} {}
};

}  // namespace
}  // namespace sdd
