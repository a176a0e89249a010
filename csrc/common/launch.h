// What every .cu file includes: how a kernel is launched. By nvcc it is compiled for the GPU; for
// the tests by a C++ compiler, with SDD_HOST_EMULATION, to run the same kernel on the CPU.
#pragma once

#include <cstdint>

#if defined(SDD_HOST_EMULATION)
#include "../host_emulation/cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

namespace sdd {

// A cudaStream_t; the torch side knows no CUDA headers.
using Stream = void*;

#if !defined(SDD_HOST_EMULATION)
// Throws std::runtime_error if the launch before it failed, saying what to do about it.
void check_launch(const char* kernel);
#endif

// Kernels use no dynamic shared memory.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int block, Stream stream,
            Arguments... arguments) {
#if defined(SDD_HOST_EMULATION)
  (void)name, (void)stream;
  emulation::emulate(kernel, grid, dim3(block), Parameters(arguments)...);
#else
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  kernel<<<grid, block, 0, cuda_stream> > >(Parameters(arguments)...);
  check_launch(name);
#endif
}

namespace {

constexpr int kWarp = 32;

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace sdd
