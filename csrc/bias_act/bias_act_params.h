// The activation's arguments in the precision of a kernel.
#pragma once

#include "../common/elements.h"
#include "bias_act.h"

namespace sdd {
namespace {

template <class E>
ActParams<typename E::Compute> act_params(Act act, double gain, double alpha, double limit) {
  using S = typename E::Compute;
  const double slope = act == Act::kLinear ? 1 : act == Act::kRelu ? 0 : alpha;
  // The limit as the result is stored: what reaches it can then be told from the result.
  return {S(gain), S(gain * slope), as_stored<E>(limit)};
}

}  // namespace
}  // namespace sdd
