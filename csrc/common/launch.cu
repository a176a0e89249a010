// Failed launches, told to users.
#include <stdexcept>

#include "launch.h"
#include "launch_error.h"

namespace sdd {
namespace {

LaunchFailure failure_of(cudaError_t error) {
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return LaunchFailure::kArchitecture;
    case cudaErrorInvalidKernelImage:  // a driver before 550 cannot unpack what nvcc 12.8 packed
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorInvalidPtx:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorJitCompilationDisabled:
      return LaunchFailure::kPtx;
    case cudaErrorInsufficientDriver:
      return LaunchFailure::kDriver;
    default:
      return LaunchFailure::kOther;
  }
}

}  // namespace

void check_launch(const char* kernel, cudaError_t error) {
  if (error == cudaSuccess) return;
  FailedLaunch launch{};
  launch.kernel = kernel;
  launch.error = cudaGetErrorString(error);
  launch.compiled = SDD_CUDA_TARGETS;
  launch.failure = failure_of(error);
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&launch.major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&launch.minor, cudaDevAttrComputeCapabilityMinor, device);
  }
  cudaDriverGetVersion(&launch.driver);
  cudaRuntimeGetVersion(&launch.runtime);
  cudaGetLastError();  // forgotten: the next launch is not to blame
  throw std::runtime_error(launch_error(launch));
}

}  // namespace sdd
