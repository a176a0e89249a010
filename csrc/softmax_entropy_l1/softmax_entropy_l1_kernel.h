// Interface between the torch side (_cpu.cpp, compiled once) and the kernel (_kernel.cpp, compiled
// once per instruction set). Plain data only: nothing here may emit code of its own.
#pragma once

#include <cstdint>

#include "../common/element_type.h"

namespace sdd {

// A run of `count` <= kEntropyChunk neighbouring map entries of one row.
struct EntropyChunk {
  const void* data;  // signed map: [count]; abs-mean map: [channels, count], see stride
  Element element;
  int64_t count;
  int64_t channels;        // 0: entropy of the entries themselves; C: of mean_c |x_c|
  int64_t channel_stride;  // elements between the channels of one entry
};

struct RowStats;
using EntropyChunkFn = void (*)(const EntropyChunk&, RowStats*);

// The same chunk, and where its gradient belongs.
struct EntropyGradientChunk {
  EntropyChunk entries;
  void* grad;                   // signed map: [count]; abs-mean map: [channels, count]
  int64_t grad_channel_stride;  // elements
  int64_t row;                  // which it is of
  double inverse_n;             // 1 / entries of a row
};

struct GradientRows;
using EntropyGradientFn = void (*)(const EntropyGradientChunk&, const GradientRows&);

// Entries per chunk: the unit of work, whatever the number of threads, so that the result does not
// depend on them. 16384 floats stay in the second-level cache for a second pass.
constexpr int64_t kEntropyChunk = 16384;

}  // namespace sdd
