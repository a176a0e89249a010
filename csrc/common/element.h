// The types of elements that kernels take. Plain data: the torch side includes it too.
#pragma once

namespace sdd {

enum class Element { kFloat64, kFloat32, kFloat16, kBFloat16 };

}  // namespace sdd
