// upfirdn2d on the CPU; compiled once per instruction set (SDD_ISA names the copy). Every element
// is summed in the same order whichever thread computes it.
#include "upfirdn2d_kernel.h"

#include "line_filter.h"
#include "row_filter.h"

namespace sdd {
namespace {

template <class E>
void filter(const Upfirdn2dRows& p, int64_t begin, int64_t end) {
  if (LineFilter<E>::can(p)) return LineFilter<E>(p).run(begin, end);
  RowFilter<E>(p).run(begin, end);
}

}  // namespace

void SDD_JOIN(upfirdn2d_rows_, SDD_ISA)(const Upfirdn2dRows& p, int64_t begin, int64_t end) {
  with_element(p.element, [&](auto element) { filter<decltype(element)>(p, begin, end); });
}

}  // namespace sdd
