// softmax_entropy_l1 and its gradient on the CPU: threads, and the merge of the chunks of each row.
#include <cmath>

#include "../common/cpu_work.h"
#include "chunk.h"

namespace sdd {

void entropy_chunk_portable(const EntropyChunk&, Partial*);
void entropy_chunk_x86_64_v3(const EntropyChunk&, Partial*);
void entropy_chunk_x86_64_v4(const EntropyChunk&, Partial*);
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

// partials: [count], of a row of n entries. In their order: the same bits whatever thread wrote
// them.
void merge(const Partial* partials, int64_t count, int64_t n, const EntropyResults& results,
           int64_t row) {
  const double offset = partials[0].offset;
  double highest = -kInfinity, l1 = 0;
  for (int64_t k = 0; k < count; ++k) {
    const double shift = partials[k].shift + (partials[k].offset - offset);
    highest = shift > highest ? shift : highest;
    l1 += partials[k].l1;
  }
  const auto sum_about = [&](double shift, double (&sums)[2]) {
    sums[0] = sums[1] = 0;
    for (int64_t k = 0; k < count; ++k) add_moved<double>(partials[k], offset, shift, sums);
  };
  double sums[2];
  sum_about(highest, sums);
  // log mean e^x, by (1): there nothing cancels.
  const double shift = highest + std::log1p(sums[0] / double(n));
  sum_about(shift, sums);
  write_results(results, row, double(n), offset, shift, sums, l1);
}

}  // namespace

void softmax_entropy_l1_cpu(const EntropyMaps& maps, const EntropyResults& results) {
  const int64_t chunks = chunks_of_row(maps);
  const std::unique_ptr<Partial[]> partials(new Partial[maps.rows * chunks]);
  const auto entropy_chunk = SDD_FOR_CPU_LEVEL(entropy_chunk_);
  for_chunks(maps, [&](int64_t task, int64_t, int64_t, const EntropyChunk& chunk) {
    entropy_chunk(chunk, &partials[task]);
  });
  torch::stable::parallel_for(0, maps.rows, std::max<int64_t>(1, 1024 / chunks),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t row = begin; row < end; ++row) {
                                  merge(&partials[row * chunks], chunks, maps.n, results, row);
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
    entropy_gradient({chunk, place, row, maps.n}, rows);
  });
}

}  // namespace sdd
