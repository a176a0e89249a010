#include "device.h"

#include <dlfcn.h>

namespace sdd {

// The stable ABI has no function for the stream itself before torch 2.13, but the C interface has,
// in libtorch_cuda. Asking for it when it is needed keeps this library loadable beside a torch
// without CUDA: one file serves both.
void* current_cuda_stream(int32_t device) {
  using CurrentStream = AOTITorchError (*)(int32_t, void**);
  static const auto current_stream = [] {
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<CurrentStream>(
        torch_cuda ? dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  STD_TORCH_CHECK(current_stream != nullptr,
                  "sdd_fast: its CUDA kernels need a CUDA build of torch >= 2.11");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(current_stream(device, &stream));
  return stream;
}

}  // namespace sdd
