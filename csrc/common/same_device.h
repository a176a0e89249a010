// Whether two tensors lie on the CPU, or on the same GPU.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace sdd {
namespace {

inline bool same_device(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.is_cuda() == b.is_cuda() &&
         a.get_device_index() == b.get_device_index();
}

}  // namespace
}  // namespace sdd
