// CPU entries of softmax_entropy_l1 and its gradient: checks, threads, and the merge of the chunks
// of each row.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <tuple>

#include "../common/cpu_level.h"
#include "../common/new_tensor.h"
#include "softmax_entropy_l1.h"
#include "softmax_entropy_l1_kernel.h"
#include "softmax_entropy_l1_torch.h"

namespace sdd {

void entropy_chunk_portable(const EntropyChunk&, RowStats*);
void entropy_chunk_x86_64_v3(const EntropyChunk&, RowStats*);
void entropy_chunk_x86_64_v4(const EntropyChunk&, RowStats*);
void entropy_gradient_portable(const EntropyGradientChunk&, const GradientRows&);
void entropy_gradient_x86_64_v3(const EntropyGradientChunk&, const GradientRows&);
void entropy_gradient_x86_64_v4(const EntropyGradientChunk&, const GradientRows&);

namespace {

// Work for one thread at least: below it, waking a second thread costs more than it saves.
constexpr int64_t kGrainEntries = 32768;

// [N] float64 on the CPU, straight from the C interface: a call through the dispatcher would cost
// as much as the statistics of a small map.
Tensor new_statistic(int64_t rows) {
  const int64_t stride = 1;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &rows, &stride, aoti_torch_dtype_float64(),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// body(task) for every chunk of every row, on as many threads as that is worth.
template <class Body>
void for_chunks(const EntropyInput& in, const Body& body) {
  const int64_t chunks = (in.n + kEntropyChunk - 1) / kEntropyChunk;  // per row
  const int64_t entries = std::min(in.n, kEntropyChunk) * std::max<int64_t>(in.channels, 1);
  const auto* data = static_cast<const char*>(in.x.const_data_ptr());
  const auto size = static_cast<int64_t>(in.x.element_size());
  torch::stable::parallel_for(
      0, in.rows * chunks, std::max<int64_t>(1, kGrainEntries / entries),
      [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = task / chunks, first = task % chunks * kEntropyChunk;
          body(task, row, first,
               EntropyChunk{data + (row * in.row_stride + first) * size, in.element,
                            std::min(kEntropyChunk, in.n - first), in.channels, in.channel_stride});
        }
      });
}

// x: [N, n], or [N, C, n] with abs_mean -> entropy, l1, deficit, log_mean_exp: [N] float64
std::tuple<Tensor, Tensor, Tensor, Tensor> softmax_entropy_l1(const Tensor& input, bool abs_mean) {
  STD_TORCH_CHECK(input.is_cpu(), "softmax_entropy_l1: this kernel takes CPU tensors");
  const EntropyInput in = entropy_input(input, abs_mean);
  const int64_t rows = in.rows, n = in.n;
  Tensor entropy = new_statistic(rows), l1 = new_statistic(rows);
  Tensor deficit = new_statistic(rows), log_mean_exp = new_statistic(rows);
  if (rows == 0) return {entropy, l1, deficit, log_mean_exp};

  const int64_t chunks = (n + kEntropyChunk - 1) / kEntropyChunk;  // per row
  const std::unique_ptr<RowStats[]> stats(new RowStats[rows * chunks]);
  const EntropyChunkFn entropy_chunk = SDD_FOR_CPU_LEVEL(entropy_chunk_);
  for_chunks(in, [&](int64_t task, int64_t, int64_t, const EntropyChunk& chunk) {
    entropy_chunk(chunk, &stats[task]);
  });

  double* out_entropy = static_cast<double*>(entropy.mutable_data_ptr());
  double* out_l1 = static_cast<double*>(l1.mutable_data_ptr());
  double* out_deficit = static_cast<double*>(deficit.mutable_data_ptr());
  double* out_log_mean_exp = static_cast<double*>(log_mean_exp.mutable_data_ptr());
  const double log_n = std::log(static_cast<double>(n));
  torch::stable::parallel_for(
      0, rows, std::max<int64_t>(1, 1024 / chunks), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const RowStats s = merge_chunks(&stats[row * chunks], chunks, kEntropyChunk, n);
          const double h = log_n - s.deficit;
          out_entropy[row] = h < 0 ? 0 : h;  // rounding; NaN stays NaN
          out_l1[row] = s.l1;
          out_deficit[row] = s.deficit;
          out_log_mean_exp[row] = s.log_mean_exp;
        }
      });
  return {entropy, l1, deficit, log_mean_exp};
}

// The gradient of the result of softmax_entropy_l1(x, abs_mean), of which deficit and log_mean_exp
// are two; grad_...: what comes back to each, [N] float64 -> contiguous, like x
Tensor softmax_entropy_l1_backward(const std::optional<Tensor>& grad_entropy,
                                   const std::optional<Tensor>& grad_l1,
                                   const std::optional<Tensor>& grad_deficit,
                                   const std::optional<Tensor>& grad_log_mean_exp,
                                   const Tensor& input, const Tensor& deficit,
                                   const Tensor& log_mean_exp, bool abs_mean) {
  STD_TORCH_CHECK(input.is_cpu(), "softmax_entropy_l1_backward: this kernel takes CPU tensors");
  const EntropyInput in = entropy_input(input, abs_mean);
  const GradientRows rows{row_numbers(deficit, input),      row_numbers(log_mean_exp, input),
                          row_numbers(grad_entropy, input), row_numbers(grad_l1, input),
                          row_numbers(grad_deficit, input), row_numbers(grad_log_mean_exp, input)};
  const GradientShape shape(in);
  const Tensor grad = new_tensor(input.dim(), input.sizes().data(), shape.strides, input);
  if (in.rows == 0) return grad;

  const EntropyGradientFn entropy_gradient = SDD_FOR_CPU_LEVEL(entropy_gradient_);
  const auto size = static_cast<int64_t>(grad.element_size());
  char* data = static_cast<char*>(grad.mutable_data_ptr());
  for_chunks(in, [&](int64_t, int64_t row, int64_t first, const EntropyChunk& chunk) {
    char* place = data + (row * shape.maps * in.n + first) * size;
    entropy_gradient({chunk, place, in.n, row, 1 / double(in.n)}, rows);
  });
  return grad;
}

}  // namespace
}  // namespace sdd

STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CPU, m) {
  m.impl("softmax_entropy_l1", TORCH_BOX(&sdd::softmax_entropy_l1));
  m.impl("softmax_entropy_l1_backward", TORCH_BOX(&sdd::softmax_entropy_l1_backward));
}
