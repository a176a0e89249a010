// Tests of the emulation itself, which runs the CUDA kernels on the CPU: see csrc/host_emulation.
#pragma once

#include <stdexcept>

namespace sdd::emulation {

// The kernel ran to its end and its result is not the host's.
class WrongResult : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What tells of the fault:
//   missing_barrier       the thread sanitizer; WrongResult but for the reverse schedule
//   racing_blocks         the thread sanitizer; WrongResult in the reverse schedule
//   global_overrun        the address sanitizer (without it the heap is damaged)
//   shared_overrun        the undefined-behavior sanitizer (bounds); else WrongResult
//   wrong_shuffle_mask    Error
//   divergent_barrier     Error
//   uninitialized_shared  WrongResult
//
// Runs the kernel of one seeded fault, see faults.cu, with the fault or without.
void run_fault(const char* name, bool faulty);

// Checks that need no sanitizer, see self_test.cu. Throws std::logic_error that names the line of
// the first failed one. Leaves the schedule forward.
void self_test();

}  // namespace sdd::emulation
