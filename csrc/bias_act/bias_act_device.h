// The activation's arguments in the precision of a CUDA kernel; which activation is told at run
// time: the same for all threads, it costs nothing beside the memory traffic.
#pragma once

#include "../common/device_elements.h"
#include "bias_act.h"

namespace sdd {
namespace {

template <class Stored>
struct DeviceAct {
  using C = Compute<Stored>;
  ActParams<C> params;
  bool relu;

  // The limit as the result is stored: what reaches it can then be told from the result.
  DeviceAct(Act act, double gain, double alpha, double limit)
      : params{C(gain),
               C(gain * (act == Act::kLinear ? 1
                         : act == Act::kRelu ? 0
                                             : alpha)),
               as_stored<Stored>(limit)},
        relu(act == Act::kRelu) {}

  // linear is lrelu with alpha = 1, to the bit
  __device__ __forceinline__ C activated(C u) const {
    return relu ? sdd::activated<Act::kRelu>(u, params) : sdd::activated<Act::kLrelu>(u, params);
  }
  __device__ __forceinline__ C gradient(C grad, C sign, C reached) const {
    return bias_act_gradient<Act::kLrelu>(grad, sign, reached, params);
  }
};

}  // namespace
}  // namespace sdd
