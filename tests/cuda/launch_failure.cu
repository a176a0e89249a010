// Starts a kernel that cannot run here, and prints what a user is told. Compiled by
// tests/cuda/test_launch_error.py for a GPU that is not the one of this machine, if it has one.
#include <cstdio>
#include <exception>

#include "../../csrc/common/launch.cu"

namespace {
__global__ void __launch_bounds__(32) impossible(int) {}
}  // namespace

int main() {
  try {
    sdd::launch("impossible", impossible, dim3(1), 32, nullptr, 0);
  } catch (const std::exception& error) {
    std::puts(error.what());
    return 0;
  }
  std::puts("the kernel was started");
  return 1;
}
