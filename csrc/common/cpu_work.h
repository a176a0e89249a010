// What the CPU side of several ops needs: threads, and short tensors in the precision of kernels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "cpu_level.h"
#include "elements.h"

namespace sdd {
namespace {

// Elements for one thread at least: below it, waking a second thread costs more than it saves.
constexpr int64_t kGrainElements = 65536;

// kernel(call, begin, end) for `tasks` tasks of about `work` elements each, on as many threads as
// that is worth.
template <class Call>
void run_tasks(void (*kernel)(const Call&, int64_t, int64_t), const Call& call, int64_t tasks,
               int64_t work, int64_t grain_elements = kGrainElements) {
  const int64_t grain = std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, work));
  if (tasks <= grain) return kernel(call, 0, tasks);
  torch::stable::parallel_for(0, tasks, grain,
                              [&](int64_t begin, int64_t end) { kernel(call, begin, end); });
}

// A short tensor in the precision that kernels compute in: float64 for float64, else float32. Each
// element `each` times in a row, and the whole `times` times.
class WideVector {
 public:
  // from: [n], or nullptr: `otherwise` in each place
  WideVector(const void* from, Element element, int64_t n, double otherwise, int64_t each = 1,
             int64_t times = 1) {
    with_element(element, [&](auto e) {
      using E = decltype(e);
      using T = typename E::Compute;
      data_.reset(new double[std::max<int64_t>(1, n * each * times)]);  // aligned for either
      T* next = reinterpret_cast<T*>(data_.get());
      const auto* x = static_cast<const typename E::Stored*>(from);
      for (int64_t repeat = 0; repeat < times; ++repeat) {
        for (int64_t i = 0; i < n; ++i) {
          const T value = x == nullptr ? T(otherwise) : T(E::value(x + i));
          next = std::fill_n(next, each, value);
        }
      }
    });
  }
  const void* data() const { return data_.get(); }

 private:
  std::unique_ptr<double[]> data_;
};

// Rounds [n] to the elements of `to`.
inline void store(const double* from, int64_t n, Element element, void* to) {
  with_element(element, [&](auto e) {
    using E = decltype(e);
    auto* out = static_cast<typename E::Stored*>(to);
    for (int64_t i = 0; i < n; ++i) E::put(out + i, typename E::Compute(from[i]));
  });
}

}  // namespace
}  // namespace sdd
