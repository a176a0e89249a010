// Where an op runs. The same entries are registered for the CPU and, in a build with CUDA kernels,
// for NVIDIA GPUs; compiled with SDD_HOST_EMULATION, they run the CUDA kernels on CPU tensors.
// Against the stable ABI; no CUDA headers.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "tensor.h"

#if defined(SDD_HAVE_CUDA) && !defined(SDD_HOST_EMULATION)
#include <dlfcn.h>
#endif

// Registers DEFINE(m) for every device that this library has kernels for.
#if defined(SDD_HAVE_CUDA)
#define SDD_REGISTER_KERNELS(DEFINE)                         \
  STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CPU, m) { DEFINE(m); } \
  STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CUDA, m) { DEFINE(m); }
#else
#define SDD_REGISTER_KERNELS(DEFINE) \
  STABLE_TORCH_LIBRARY_IMPL(sdd_fast, CPU, m) { DEFINE(m); }
#endif

namespace sdd {
namespace {

#if defined(SDD_HAVE_CUDA) && !defined(SDD_HOST_EMULATION)
// The stable ABI has no function for the stream itself before torch 2.13, but the C interface has,
// in libtorch_cuda. Asking for it when it is needed keeps this library loadable beside a torch
// without CUDA: one file serves both.
inline void* current_cuda_stream(int32_t device) {
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
#endif

// Calls cuda(stream) on the GPU of x, cpu() where x is on the CPU.
template <class Cpu, class Cuda>
void on_device_of(const Tensor& x, const Cpu& cpu, const Cuda& cuda) {
#if defined(SDD_HOST_EMULATION)
  (void)x, (void)cpu;
  cuda(nullptr);
#elif defined(SDD_HAVE_CUDA)
  if (x.is_cpu()) return cpu();
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  cuda(current_cuda_stream(x.get_device_index()));
#else
  (void)x, (void)cuda;
  cpu();
#endif
}

}  // namespace
}  // namespace sdd
