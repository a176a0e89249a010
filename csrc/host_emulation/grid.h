// What a launch may ask for, and the order in which its blocks run.
#pragma once

#include <cstdint>
#include <numeric>
#include <string>

#include "cuda_emulation.h"
#include "messages.h"

namespace sdd::emulation {
namespace {

constexpr int kMaxThreads = 1024;

struct Random {  // xorshift64*
  uint64_t state;
  explicit Random(uint64_t seed = 0) : state((seed + 1) * 0x9e3779b97f4a7c15u | 1u) {}
  uint64_t next() {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717u >> 16;
  }
};

void check_sizes(dim3 grid, dim3 block) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const std::string given = "grid " + text(uint3{grid.x, grid.y, grid.z}) + ", block " +
                            text(uint3{block.x, block.y, block.z}) + ": ";
  if (block.x > 1024 || block.y > 1024 || block.z > 64 || threads > kMaxThreads) {
    throw Error(given + "a block has at most 1024 threads, and 64 along z");
  }
  if (threads == 0) throw Error(given + "the block is empty");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) throw Error(given + "the grid is empty");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw Error(given + "a grid has at most 2^31 - 1 blocks along x, 65535 along y and z");
  }
  if (uint64_t(grid.x) * grid.y > 0xffffffffu / grid.z) {
    throw Error(given + "more than 2^32 - 1 blocks are not emulated");
  }
}

// The order of n blocks: place -> block.
struct BlockOrder {
  uint64_t n, factor = 1, offset = 0;
  BlockOrder(uint64_t count, Schedule schedule, Random* random) : n(count) {
    if (schedule == Schedule::kReverse) {
      factor = n - 1;  // -1
      offset = n - 1;
    } else if (schedule == Schedule::kRandom) {
      factor = random->next() % n;
      while (std::gcd(factor, n) != 1) ++factor;
      offset = random->next() % n;
    }
  }
  uint64_t block(uint64_t place) const { return (place * factor + offset) % n; }
};

}  // namespace
}  // namespace sdd::emulation
