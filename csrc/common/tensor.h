// The torch side of every op: what a tensor is made of, and new ones. Against the stable ABI.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "element.h"

namespace sdd {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Element element_of(const char* op, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return Element::kFloat64;
    case ScalarType::Float:
      return Element::kFloat32;
    case ScalarType::Half:
      return Element::kFloat16;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    default:
      STD_TORCH_CHECK(false, op, ": x must be float64, float32, float16 or bfloat16");
  }
  return Element::kFloat32;
}

inline int32_t dtype_of(const Tensor& x) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  return dtype;
}

// What sums and factors of x are kept in: float64 beside float64, else float32.
inline int32_t wide_dtype_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? aoti_torch_dtype_float64()
                                               : aoti_torch_dtype_float32();
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.is_cuda() == b.is_cuda() &&
         a.get_device_index() == b.get_device_index();
}

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  const auto s = a.sizes(), t = b.sizes();
  return s.size() == t.size() && std::equal(s.begin(), s.end(), t.begin());
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  const auto s = a.strides(), t = b.strides(), sizes = a.sizes();
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (sizes[d] != 1 && s[d] != t[d]) return false;
  }
  return true;
}

inline bool alike(const Tensor& a, const Tensor& b) {
  return same_device(a, b) && same_sizes(a, b) && a.scalar_type() == b.scalar_type();
}

// Of four dimensions; a tensor that is both counts as contiguous.
inline bool is_channels_last(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t expected[] = {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]};
  for (int d = 0; d < 4; ++d) {
    if (sizes[d] != 1 && strides[d] != expected[d]) return false;
  }
  return !x.is_contiguous();
}

inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}
inline std::optional<Tensor> as_contiguous(const std::optional<Tensor>& x) {
  return x ? std::optional(as_contiguous(*x)) : x;
}

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

// "out of memory" is what programs look for that try again with a smaller batch: torch's own type
// of error does not pass through the C interface.
[[noreturn]] inline void no_memory(int64_t dims, const int64_t* sizes, int64_t element_bytes,
                                   bool on_gpu) {
  std::ostringstream shape;
  double gigabytes = double(element_bytes) / 1e9;
  for (int64_t d = 0; d < dims; ++d) {
    shape << (d == 0 ? "" : ", ") << sizes[d];
    gigabytes *= double(sizes[d]);
  }
  shape << "], " << gigabytes << " GB";
  STD_TORCH_CHECK(!on_gpu,
                  "sdd_fast: CUDA out of memory. There is no memory for a tensor of shape [",
                  shape.str(),
                  "; ask for a smaller one. If torch says above that an earlier kernel failed, "
                  "that is why");
  STD_TORCH_CHECK(false, "sdd_fast: there is no memory for a result of shape [", shape.str(),
                  "; ask for a smaller one");
  __builtin_unreachable();
}

// An uninitialized, dense tensor on the device of `like`, straight from libtorch's C interface: a
// call through the dispatcher would cost as much as an op on a small tensor.
inline Tensor new_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                          const Tensor& like) {
  int32_t type = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(dims, sizes, strides, dtype, type, index, &handle) !=
      AOTI_TORCH_SUCCESS) {
#if defined(SDD_HOST_EMULATION)
    const bool on_gpu = true;
#else
    const bool on_gpu = like.is_cuda();
#endif
    no_memory(dims, sizes, int64_t(aoti_torch_dtype_element_size(dtype)), on_gpu);
  }
  Tensor out(handle);
  if (like.is_cpu()) {
    prefer_huge_pages(out.mutable_data_ptr(), out.numel() * int64_t(out.element_size()));
  }
  return out;
}

inline Tensor new_contiguous(std::initializer_list<int64_t> sizes, int32_t dtype,
                             const Tensor& like) {
  int64_t strides[8] = {}, stride = 1;
  const auto dims = static_cast<int64_t>(sizes.size());
  for (int64_t d = dims - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= std::max<int64_t>(1, sizes.begin()[d]);
  }
  return new_strided(dims, sizes.begin(), strides, dtype, like);
}

// Of the shape, strides and dtype of x, which is dense.
inline Tensor new_like(const Tensor& x) {
  return new_strided(x.dim(), x.sizes().data(), x.strides().data(), dtype_of(x), x);
}

}  // namespace
}  // namespace sdd
