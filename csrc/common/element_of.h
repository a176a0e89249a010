// The torch side of element_type.h: what kernels call the dtype of a tensor.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "element_type.h"

namespace sdd {
namespace {

inline Element element_of(const char* op, const torch::stable::Tensor& x) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return Element::kFloat64;
    case ScalarType::Float:
      return Element::kFloat32;
    case ScalarType::Half:
      return Element::kFloat16;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    default:
      STD_TORCH_CHECK(false, op, ": x must be float64, float32, float16 or bfloat16");
  }
  return Element::kFloat32;
}

}  // namespace
}  // namespace sdd
