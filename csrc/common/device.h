// The torch side of the CUDA entries: where a tensor lies, on which stream to work, new tensors.
// Against the stable ABI; no CUDA headers. Compiled with SDD_HOST_EMULATION the same entries take
// CPU tensors, and their kernels run on the CPU.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>

#include "no_memory.h"

#if defined(SDD_HOST_EMULATION)
#define SDD_DEVICE_KEY CPU
#else
#define SDD_DEVICE_KEY CUDA
#endif

namespace sdd {

#if !defined(SDD_HOST_EMULATION)
void* current_cuda_stream(int32_t device);
#endif

namespace {

inline bool on_device(const torch::stable::Tensor& x) {
#if defined(SDD_HOST_EMULATION)
  return x.is_cpu();
#else
  return x.is_cuda();
#endif
}

// While it lives, the device of x is the current one.
class OnDevice {
 public:
#if defined(SDD_HOST_EMULATION)
  explicit OnDevice(const torch::stable::Tensor&) {}
  void* stream() const { return nullptr; }
#else
  explicit OnDevice(const torch::stable::Tensor& x)
      : device_(x.get_device_index()), guard_(device_) {}
  void* stream() const { return current_cuda_stream(device_); }

 private:
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

// An uninitialised tensor on the device of `like`, from torch's caching allocator. "out of memory"
// is what programs look for that try again with a smaller batch: torch's own type of error does not
// pass through the C interface.
inline torch::stable::Tensor new_on_device(int64_t dims, const int64_t* sizes,
                                           const int64_t* strides, int32_t dtype,
                                           const torch::stable::Tensor& like) {
  int32_t type = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(dims, sizes, strides, dtype, type, index, &handle) !=
      AOTI_TORCH_SUCCESS) {
    STD_TORCH_CHECK(
        false, "sdd_fast: CUDA out of memory. There is no memory for a tensor of shape ",
        shape_and_size(dims, sizes, int64_t(aoti_torch_dtype_element_size(dtype))),
        "; ask for a smaller one. If torch says above that an earlier kernel failed, that is why");
  }
  return torch::stable::Tensor(handle);
}

inline int32_t dtype_of(const torch::stable::Tensor& x) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  return dtype;
}

// The same, contiguous.
inline torch::stable::Tensor new_on_device(std::initializer_list<int64_t> sizes, int32_t dtype,
                                           const torch::stable::Tensor& like) {
  int64_t strides[8] = {}, stride = 1;
  const auto dims = static_cast<int64_t>(sizes.size());
  for (int64_t d = dims - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= sizes.begin()[d] > 1 ? sizes.begin()[d] : 1;
  }
  return new_on_device(dims, sizes.begin(), strides, dtype, like);
}

}  // namespace
}  // namespace sdd
