// One chunk of one row on the CPU, and its gradient; compiled once per instruction set (SDD_ISA
// names the copy).
#include "softmax_entropy_l1_kernel.h"

#include "chunk_cpu.h"
#include "gradient_cpu.h"

namespace sdd {

void SDD_JOIN(entropy_chunk_, SDD_ISA)(const EntropyChunk& c, Partial* out) {
  with_element(c.element, [&](auto element) {
    using E = decltype(element);
    const auto* x = static_cast<const typename E::Stored*>(c.data);
    c.channels > 0 ? sum_chunk(AbsMeanMap<E>{x, c.channels, c.channel_stride}, c.count, out)
                   : sum_chunk(SignedMap<E>{x}, c.count, out);
  });
}

void SDD_JOIN(entropy_gradient_, SDD_ISA)(const EntropyGradientChunk& c, const GradientRows& rows) {
  with_element(c.entries.element, [&](auto element) {
    using E = decltype(element);
    c.entries.channels > 0 ? abs_mean_gradient<E>(c, rows) : signed_gradient<E>(c, rows);
  });
}

}  // namespace sdd
