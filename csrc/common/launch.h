// What every .cu file includes: how a kernel is launched. By nvcc it is compiled for the GPU; for
// the tests by a C++ compiler, with SDD_HOST_EMULATION, to run the same kernel on the CPU.
#pragma once

#include <cstdint>

#include "real.h"

#if defined(SDD_HOST_EMULATION)
#include "../host_emulation/cuda_emulation.h"
#else
#include <cuda_runtime.h>

#include <tuple>
#endif

namespace sdd {

// A cudaStream_t; the torch side knows no CUDA headers.
using Stream = void*;

#if !defined(SDD_HOST_EMULATION)
// Throws std::runtime_error if a launch failed, saying what to do about it.
void check_launch(const char* kernel, cudaError_t error);
#endif

// Kernels use no dynamic shared memory.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int block, Stream stream,
            Arguments... arguments) {
#if defined(SDD_HOST_EMULATION)
  (void)name, (void)stream;
  emulation::emulate(kernel, grid, dim3(block), Parameters(arguments)...);
#else
  std::tuple<Parameters...> values(arguments...);
  check_launch(name, std::apply(
                         [&](auto&... value) {
                           void* pointers[] = {&value...};
                           return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid,
                                                   dim3(block), pointers, 0,
                                                   static_cast<cudaStream_t>(stream));
                         },
                         values));
#endif
}

namespace {

constexpr int kWarp = 32;

}  // namespace
}  // namespace sdd
