// What to tell users of a kernel that could not be started. Plain C++, for its tests.
#pragma once

#include <string>

namespace sdd {

enum class LaunchFailure { kArchitecture, kPtx, kDriver, kOther };

struct FailedLaunch {
  const char* kernel;
  const char* error;     // what CUDA calls it
  const char* compiled;  // the GPUs that the kernels are for: "sm_80 sm_90"
  LaunchFailure failure;
  int major, minor;     // compute capability of the GPU; 0, 0 if it is not known
  int driver, runtime;  // as CUDA writes its versions, 13.1 is 13010; driver 0: there is none
};

inline std::string launch_error(const FailedLaunch& launch) {
  const auto number = [](int major, int minor) {
    return std::to_string(major) + "." + std::to_string(minor);
  };
  const auto cuda = [&](int version) {
    return "CUDA " + number(version / 1000, version % 1000 / 10);
  };
  const std::string gpu = "This GPU has compute capability " + number(launch.major, launch.minor);
  const std::string rebuild =
      "build sdd_fast from source on this machine: SDD_FAST_CUDA=1 SDD_FAST_CUDA_ARCHITECTURES=" +
      std::to_string(launch.major) + std::to_string(launch.minor) +
      " pip install --force-reinstall --no-deps --no-build-isolation . (needs nvcc)";
  const std::string without =
      "SDD_FAST_CUDA=0 in the environment makes the ops compute on the GPU with PyTorch's own "
      "operations, several times slower.";

  std::string message = std::string("sdd_fast: the CUDA kernel ") + launch.kernel +
                        " could not be started: " + launch.error + ". ";
  if (launch.failure == LaunchFailure::kArchitecture && launch.major > 0 && launch.major < 8) {
    message += gpu + "; 8.0 is the oldest that these kernels support. " + without;
  } else if (launch.failure == LaunchFailure::kArchitecture && launch.major > 0) {
    message += gpu + "; the kernels were compiled for " + launch.compiled + ". To run them, " +
               rebuild + ". " + without;
  } else if (launch.failure == LaunchFailure::kPtx && launch.major > 0) {
    message +=
        gpu + ", the kernels were compiled for " + launch.compiled +
        ", and the driver could not load them or compile them for this GPU. Update the NVIDIA "
        "driver to one that supports " +
        cuda(launch.runtime) + " or newer, or " + rebuild + ". " + without;
  } else if (launch.failure == LaunchFailure::kDriver && launch.driver > 0) {
    message += "The NVIDIA driver supports " + cuda(launch.driver) + ", these kernels need " +
               cuda(launch.runtime) +
               ". Update the driver, or build sdd_fast from source with an older CUDA toolkit "
               "(12.8 is the oldest that works). " +
               without;
  } else if (launch.failure == LaunchFailure::kDriver) {
    message += "No NVIDIA driver was found; install one that supports " + cuda(launch.runtime) +
               " or newer.";
  } else {
    message += "Set CUDA_LAUNCH_BLOCKING=1 to see whether an earlier kernel failed.";
  }
  return message;
}

}  // namespace sdd
