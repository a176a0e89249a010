// What errors say of a tensor that there is no memory for: "[1, 2, 3], 2.4e-08 GB".
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

namespace sdd {
namespace {

inline std::string shape_and_size(int64_t dims, const int64_t* sizes, int64_t element_bytes) {
  std::ostringstream text;
  double gigabytes = double(element_bytes) / 1e9;
  text << "[";
  for (int64_t d = 0; d < dims; ++d) {
    text << (d == 0 ? "" : ", ") << sizes[d];
    gigabytes *= double(sizes[d]);
  }
  text << "], " << gigabytes << " GB";
  return text.str();
}

}  // namespace
}  // namespace sdd
