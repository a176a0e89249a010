// Failed launches, told to users.
#include <stdexcept>
#include <string>

#include "launch.h"

namespace sdd {

void check_launch(const char* kernel, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or torch would find it at its next call
  std::string message = std::string("sdd_fast: the CUDA kernel ") + kernel +
                        " could not be started: " + cudaGetErrorString(error) + ". ";
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    const std::string number = std::to_string(major) + std::to_string(minor);
    message +=
        "This GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
        "; these kernels were compiled for " SDD_CUDA_TARGETS
        ". Build for it from source: SDD_FAST_CUDA_ARCHITECTURES=" +
        number + " pip install --no-build-isolation . (8.0 is the oldest that is supported).";
  } else if (error == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    message += "The driver supports CUDA " + std::to_string(driver / 1000) + "." +
               std::to_string(driver % 1000 / 10) + ", these kernels need CUDA " +
               std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10) +
               ": update the NVIDIA driver, or build from source with an older CUDA toolkit.";
  } else {
    message += "Set CUDA_LAUNCH_BLOCKING=1 to see whether an earlier kernel failed.";
  }
  throw std::runtime_error(message);
}

}  // namespace sdd
