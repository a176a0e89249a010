// The allocator of the system returns large memory as soon as it is free and gets it anew, cleared
// and mapped page by page, for the next result: that takes longer than computing it. Here up to
// 1 GiB stays, as memory that the system may take away when it runs short (MADV_FREE), and serves
// results of the same size.
#include "kept_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(MADV_HUGEPAGE) && defined(MADV_FREE)

#include <algorithm>
#include <mutex>

namespace sdd {
namespace {

constexpr int64_t kHugePage = int64_t{1} << 21;
constexpr int64_t kMostBytes = int64_t{1} << 30;
constexpr int kMostBlocks = 64;

struct Block {
  void* data;
  int64_t bytes;
};

// Plain data without destructors: tensors may outlive whatever is destroyed at exit.
Block kept[kMostBlocks];  // oldest first
int blocks = 0;
int64_t kept_bytes = 0;
std::mutex mutex;  // only tried, never waited for: a fork may leave it locked in the child

int64_t round_up(int64_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

Block take_out(int i) {
  const Block block = kept[i];
  std::copy(kept + i + 1, kept + blocks, kept + i);
  --blocks;
  kept_bytes -= block.bytes;
  return block;
}

void* map_fresh(int64_t bytes) {
  const int64_t more = bytes + kHugePage;  // to begin at a huge page
  void* mapped = mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  char* data = reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(begin)));
  if (data > begin) munmap(begin, data - begin);
  if (begin + more > data + bytes) munmap(data + bytes, begin + more - data - bytes);
  madvise(data, bytes, MADV_HUGEPAGE);  // advice: may fail
  return data;
}

}  // namespace

void* take_memory(int64_t bytes) {
  bytes = round_up(bytes);
  {
    const std::unique_lock lock(mutex, std::try_to_lock);
    // The youngest first: most of it may still be in the cache.
    for (int i = lock ? blocks - 1 : -1; i >= 0; --i) {
      if (kept[i].bytes == bytes) return take_out(i).data;
    }
  }
  return map_fresh(bytes);
}

void give_memory_back(void* data, int64_t bytes) {
  bytes = round_up(bytes);
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock || bytes > kMostBytes || madvise(data, bytes, MADV_FREE) != 0) {
    munmap(data, bytes);
    return;
  }
  while (blocks == kMostBlocks || kept_bytes + bytes > kMostBytes) {
    const Block oldest = take_out(0);
    munmap(oldest.data, oldest.bytes);
  }
  kept[blocks++] = {data, bytes};
  kept_bytes += bytes;
}

}  // namespace sdd

#else

namespace sdd {

void* take_memory(int64_t) { return nullptr; }
void give_memory_back(void*, int64_t) {}

}  // namespace sdd

#endif
