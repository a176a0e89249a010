// The copies that a kernel with an activation is compiled to: for every type of number and every
// activation.
#pragma once

#include "../common/elements.h"
#include "bias_act.h"

namespace sdd {
namespace {

template <class ElementType, Act kAct>
struct Variant {
  using E = ElementType;
  static constexpr Act act = kAct;

  // The activation's arguments in the precision of the kernel.
  static ActParams<typename E::Compute> params(double gain, double alpha, double limit) {
    using S = typename E::Compute;
    const double slope = act == Act::kLinear ? 1 : act == Act::kRelu ? 0 : alpha;
    // The limit as the result is stored: what reaches it can then be told from the result.
    return {S(gain), S(gain * slope), as_stored<E>(limit)};
  }
};

template <class E, class Body>
void for_act(Act act, const Body& body) {
  switch (act) {
    case Act::kLinear:
      return body(Variant<E, Act::kLinear>{});
    case Act::kRelu:
      return body(Variant<E, Act::kRelu>{});
    case Act::kLrelu:
      return body(Variant<E, Act::kLrelu>{});
  }
}

// body(variant) for the one that the call needs.
template <class Body>
void for_variant(Element element, Act act, const Body& body) {
  with_element(element, [&](auto stored) { for_act<decltype(stored)>(act, body); });
}

}  // namespace
}  // namespace sdd
