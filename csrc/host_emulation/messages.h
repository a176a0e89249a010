// How an Error writes threads, lines, masks and operations.
#pragma once

#include <cstdio>
#include <cstring>
#include <source_location>
#include <string>

#include "cuda_emulation.h"

namespace sdd::emulation {
namespace {

using detail::WarpOp;
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

const char* name(WarpOp op) {
  constexpr const char* kNames[] = {"__syncwarp()",       "__shfl_sync()",     "__shfl_up_sync()",
                                    "__shfl_down_sync()", "__shfl_xor_sync()", "__ballot_sync()",
                                    "__any_sync()",       "__all_sync()"};
  return kNames[int(op)];
}

bool same_line(Where a, Where b) {
  return a.line() == b.line() &&
         (a.file_name() == b.file_name() || strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace
}  // namespace sdd::emulation
