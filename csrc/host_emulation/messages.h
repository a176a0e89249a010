// How an Error writes threads, lines and masks.
#pragma once

#include <cstdio>
#include <cstring>
#include <source_location>
#include <string>

#include "cuda_emulation.h"

namespace sdd::emulation {
namespace {

using Where = std::source_location;

std::string text(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string text(Where where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

std::string hex(unsigned mask) {
  char digits[16];
  snprintf(digits, sizeof digits, "0x%08x", mask);
  return digits;
}

constexpr const char* kShuffle = "__shfl_xor_sync()";

bool same_line(Where a, Where b) {
  return a.line() == b.line() &&
         (a.file_name() == b.file_name() || strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace
}  // namespace sdd::emulation
