// Memory for results, straight from libtorch's C interface: a call through the dispatcher would
// cost as much as an op on a small tensor.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "no_memory.h"

namespace sdd {
namespace {

// A result of many megabytes is fresh from the operating system, which clears and maps it page by
// page at the first write. In pages of 4 kB that takes several times as long as computing the
// result. This asks for pages of 2 MB, which systems give by themselves or, like most Linux
// distributions (transparent_hugepage=madvise), when asked. No memory is added: only whole huge
// pages inside the tensor are meant.
inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  if (bytes < static_cast<int64_t>(2 * page)) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(page - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: may fail
#else
  (void)data, (void)bytes;
#endif
}

// The bytes of a dense tensor, or 0 if they are too many for 64 bits.
inline int64_t dense_bytes(int64_t dims, const int64_t* sizes, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (int64_t d = 0; d < dims; ++d) {
    if (__builtin_mul_overflow(bytes, sizes[d], &bytes)) return 0;
  }
  return bytes;
}

// An uninitialised, dense CPU tensor of the dtype of `like`.
inline torch::stable::Tensor new_tensor(int64_t dims, const int64_t* sizes, const int64_t* strides,
                                        const torch::stable::Tensor& like) {
  int32_t dtype = 0;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  const int64_t bytes = dense_bytes(dims, sizes, int64_t(like.element_size()));
  if (aoti_torch_empty_strided(dims, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0,
                               &handle) != AOTI_TORCH_SUCCESS) {
    STD_TORCH_CHECK(false, "sdd_fast: there is no memory for a result of shape ",
                    shape_and_size(dims, sizes, int64_t(like.element_size())),
                    "; ask for a smaller one");
  }
  torch::stable::Tensor out(handle);
  prefer_huge_pages(out.mutable_data_ptr(), bytes);
  return out;
}

}  // namespace
}  // namespace sdd
