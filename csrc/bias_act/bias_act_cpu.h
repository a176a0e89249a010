// What the CPU entries of bias_act and conv_epilogue share: the work of a thread, new tensors, and
// short ones in the precision of the kernels. Against the stable ABI; host code only.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "../common/new_tensor.h"
#include "bias_act_kernel.h"
#include "bias_act_torch.h"

namespace sdd {
namespace {

// Work for one thread at least: below it, waking a second thread costs more than it saves.
constexpr int64_t kGrainElements = 65536;

inline Tensor new_strided(const Tensor& like) {
  return new_tensor(like.dim(), like.sizes().data(), like.strides().data(), like);
}

inline Tensor new_contiguous(std::initializer_list<int64_t> sizes, const Tensor& like) {
  int64_t strides[8] = {}, stride = 1;
  for (int64_t d = static_cast<int64_t>(sizes.size()) - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= std::max<int64_t>(1, sizes.begin()[d]);
  }
  return new_tensor(static_cast<int64_t>(sizes.size()), sizes.begin(), strides, like);
}

// A short tensor [n, ...], read in the order of its dimensions, in the precision kernels compute
// in: float64 for float64, else float32. Each number `each` times in a row, and the whole `times`
// times.
class WideVector {
 public:
  explicit WideVector(const Tensor& from, int64_t each = 1, int64_t times = 1) {
    const Tensor t = from.is_contiguous() ? from : torch::stable::contiguous(from);
    const int64_t n = t.numel();
    const void* p = t.const_data_ptr();
    switch (t.scalar_type()) {
      case ScalarType::Double:
        fill(wide_, static_cast<const double*>(p), n, each, times);
        break;
      case ScalarType::Float:
        fill(narrow_, static_cast<const float*>(p), n, each, times);
        break;
      case ScalarType::Half:
        fill(narrow_, static_cast<const torch::headeronly::Half*>(p), n, each, times);
        break;
      default:
        fill(narrow_, static_cast<const torch::headeronly::BFloat16*>(p), n, each, times);
        break;
    }
  }
  // `count` times `otherwise`, as wide as `like` asks for, where there is no tensor.
  WideVector(const std::optional<Tensor>& from, const Tensor& like, int64_t count,
             double otherwise) {
    if (from) {
      *this = WideVector(*from);
    } else if (like.scalar_type() == ScalarType::Double) {
      fill(wide_, &otherwise, 1, count, 1);
    } else {
      fill(narrow_, &otherwise, 1, count, 1);
    }
  }
  const void* data() const {
    return wide_ ? static_cast<const void*>(wide_.get()) : static_cast<const void*>(narrow_.get());
  }

 private:
  template <class To, class From>
  static void fill(std::unique_ptr<To[]>& to, const From* from, int64_t n, int64_t each,
                   int64_t times) {
    to.reset(new To[std::max<int64_t>(1, n * each * times)]);
    To* next = to.get();
    for (int64_t repeat = 0; repeat < times; ++repeat) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < each; ++k) *next++ = To(from[i]);
      }
    }
  }
  std::unique_ptr<double[]> wide_;
  std::unique_ptr<float[]> narrow_;
};

// Rounds to the dtype of `to`, which is contiguous.
void store(const double* from, const Tensor& to) {
  const int64_t n = to.numel();
  void* p = to.mutable_data_ptr();
  switch (to.scalar_type()) {
    case ScalarType::Double:
      std::copy_n(from, n, static_cast<double*>(p));
      return;
    case ScalarType::Float:
      std::copy_n(from, n, static_cast<float*>(p));
      return;
    case ScalarType::Half:
      std::copy_n(from, n, static_cast<torch::headeronly::Half*>(p));
      return;
    default:
      std::copy_n(from, n, static_cast<torch::headeronly::BFloat16*>(p));
  }
}

}  // namespace
}  // namespace sdd
