// Scratch memory of a thread, for the rows that are filtered in one direction so far.
#pragma once

#include <cstdint>
#include <new>

namespace sdd {
namespace {

// Owned memory, aligned for vectors. Not std::unique_ptr: its functions have external linkage; see
// CMakeLists.txt.
template <class T>
struct Buffer {
  static constexpr std::align_val_t kAlignment{64};
  T* data = nullptr;
  int64_t size = 0;
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete(data, kAlignment); }
  T* at_least(int64_t wanted) {  // what it contained is lost
    if (wanted > size) {
      ::operator delete(data, kAlignment);
      data = nullptr;
      size = 0;
      data = static_cast<T*>(::operator new(wanted * sizeof(T), kAlignment));
      size = wanted;
    }
    return data;
  }
};

}  // namespace
}  // namespace sdd
