// What demodulation divides the channels of a styled convolution by: the scalar mathematics, host
// and device (Karras et al. 2020, Eq. 3, with the styles outside the sum over the kernel).
//
//   e[o, i] = sum over k of w[o, i, k]^2                                                       (1)
//   d[n, o] = (sum over i of s[n, i]^2 e[o, i] + eps)^(-1/2)                                   (2)
//
// All summands are positive: nothing cancels, and a sum of m numbers is wrong by at most m units of
// the last place. At most kEnergyTerms are added up in the precision of the vectors; those sums end
// in float64.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/real.h"

namespace sdd {
namespace {

constexpr int kEnergyTerms = 64;

// (2) of its sum
SDD_FN double demodulation_factor(double sum, double eps) { return 1.0 / sqrt(sum + eps); }

}  // namespace
}  // namespace sdd
