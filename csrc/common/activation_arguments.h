// The activation of bias_act and conv_epilogue as torch gives it. Against the stable ABI.
#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include "../bias_act/bias_act.h"
#include "tensor.h"

namespace sdd {
namespace {

inline Activation activation_of(const char* op, int64_t act, double alpha, double gain,
                                const std::optional<double>& clamp) {
  STD_TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(Act::kLrelu), op,
                  ": act must be 0 (linear), 1 (relu) or 2 (lrelu), got ", act);
  STD_TORCH_CHECK(alpha >= 0 && alpha <= 1, op, ": alpha must lie in [0, 1], got ", alpha);
  STD_TORCH_CHECK(gain > 0 && std::isfinite(gain), op, ": gain must be a positive number, got ",
                  gain);
  STD_TORCH_CHECK(!clamp || *clamp > 0, op, ": clamp must be positive, got ", clamp.value_or(0));
  return {static_cast<Act>(act), gain, alpha,
          clamp.value_or(std::numeric_limits<double>::quiet_NaN())};
}

}  // namespace
}  // namespace sdd
