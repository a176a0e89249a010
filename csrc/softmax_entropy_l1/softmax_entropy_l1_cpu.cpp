// softmax_entropy_l1 and its gradient on the CPU: threads, and the merge of the chunks of each row.
#include <cmath>

#include "../common/cpu_work.h"
#include "softmax_entropy_l1_kernel.h"

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

int64_t chunks_of_row(const EntropyMaps& maps) { return divide_up(maps.n, kEntropyChunk); }

int64_t element_size(Element element) {
  return element == Element::kFloat64 ? 8 : element == Element::kFloat32 ? 4 : 2;
}

// body(task) for every chunk of every row, on as many threads as that is worth.
template <class Body>
void for_chunks(const EntropyMaps& maps, const Body& body) {
  const int64_t chunks = chunks_of_row(maps), size = element_size(maps.element);
  const int64_t entries = std::min(maps.n, kEntropyChunk) * std::max<int64_t>(maps.channels, 1);
  const auto* data = static_cast<const char*>(maps.x);
  torch::stable::parallel_for(
      0, maps.rows * chunks, std::max<int64_t>(1, kGrainEntries / entries),
      [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = task / chunks, first = task % chunks * kEntropyChunk;
          body(task, row, first,
               EntropyChunk{data + (row * maps.row_stride + first) * size, maps.element,
                            std::min(kEntropyChunk, maps.n - first), maps.channels,
                            maps.channel_stride});
        }
      });
}

}  // namespace

void softmax_entropy_l1_cpu(const EntropyMaps& maps, const EntropyResults& results) {
  const int64_t rows = maps.rows, n = maps.n, chunks = chunks_of_row(maps);
  const std::unique_ptr<RowStats[]> stats(new RowStats[rows * chunks]);
  const auto entropy_chunk = SDD_FOR_CPU_LEVEL(entropy_chunk_);
  for_chunks(maps, [&](int64_t task, int64_t, int64_t, const EntropyChunk& chunk) {
    entropy_chunk(chunk, &stats[task]);
  });

  const double log_n = std::log(static_cast<double>(n));
  torch::stable::parallel_for(
      0, rows, std::max<int64_t>(1, 1024 / chunks), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const RowStats s = merge_chunks(&stats[row * chunks], chunks, kEntropyChunk, n);
          const double h = log_n - s.deficit;
          results.entropy[row] = h < 0 ? 0 : h;  // rounding; NaN stays NaN
          results.l1[row] = s.l1;
          results.deficit[row] = s.deficit;
          results.log_mean_exp[row] = s.log_mean_exp;
        }
      });
}

void softmax_entropy_l1_backward_cpu(const EntropyMaps& maps, const GradientRows& rows,
                                     void* grad) {
  const auto entropy_gradient = SDD_FOR_CPU_LEVEL(entropy_gradient_);
  const int64_t of_row = std::max<int64_t>(maps.channels, 1) * maps.n;
  const int64_t size = element_size(maps.element);
  for_chunks(maps, [&](int64_t, int64_t row, int64_t first, const EntropyChunk& chunk) {
    char* place = static_cast<char*>(grad) + (row * of_row + first) * size;
    entropy_gradient({chunk, place, maps.n, row, 1 / double(maps.n)}, rows);
  });
}

}  // namespace sdd
