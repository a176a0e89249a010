// What the CPU and the CUDA entries of bias_act and conv_epilogue share: checks of the arguments
// they have in common, and how tensors lie in memory. Against the stable ABI.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "../common/element_of.h"
#include "../common/same_device.h"
#include "bias_act.h"

namespace sdd {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_activation(const char* op, int64_t act, double alpha, double gain,
                             const std::optional<double>& clamp) {
  STD_TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(Act::kLrelu), op,
                  ": act must be 0 (linear), 1 (relu) or 2 (lrelu), got ", act);
  STD_TORCH_CHECK(alpha >= 0 && alpha <= 1, op, ": alpha must lie in [0, 1], got ", alpha);
  STD_TORCH_CHECK(gain > 0 && std::isfinite(gain), op, ": gain must be a positive number, got ",
                  gain);
  STD_TORCH_CHECK(!clamp || *clamp > 0, op, ": clamp must be positive, got ", clamp.value_or(0));
}

inline double limit_of(const std::optional<double>& clamp) {
  return clamp.value_or(std::numeric_limits<double>::quiet_NaN());
}

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  const auto s = a.sizes(), t = b.sizes();
  return s.size() == t.size() && std::equal(s.begin(), s.end(), t.begin());
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  const auto s = a.strides(), t = b.strides(), sizes = a.sizes();
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (sizes[d] != 1 && s[d] != t[d]) return false;
  }
  return true;
}

// How a dense tensor [N, C, ...] of any order of dimensions lies in memory: [outer, C, inner].
struct Layout {
  bool dense = false;
  int64_t channels = 1;
  int64_t inner = 1;
};

inline Layout layout_of(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t dims = x.dim();
  Layout layout{false, sizes[1], sizes[1] > 1 ? strides[1] : 1};
  if (x.is_contiguous()) {
    layout.inner = 1;
    for (int64_t d = 2; d < dims; ++d) layout.inner *= sizes[d];
    layout.dense = true;
    return layout;
  }
  std::vector<int64_t> order;
  for (int64_t d = 0; d < dims; ++d) {
    if (sizes[d] != 1) order.push_back(d);
  }
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (const int64_t d : order) {
    if (strides[d] != expected) return layout;
    expected *= sizes[d];
  }
  layout.dense = true;
  return layout;
}

}  // namespace
}  // namespace sdd
