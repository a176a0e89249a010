// Memory of large results that is kept when they are gone, for those that follow.
#pragma once

#include <cstdint>

namespace sdd {

// Fresh or used memory of that size, beginning at a huge page; null where there is none, and where
// none is kept: then the allocator of torch is meant to be asked.
void* take_memory(int64_t bytes);

// What take_memory(bytes) gave.
void give_memory_back(void* data, int64_t bytes);

}  // namespace sdd
