// Runs the kernel of one seeded fault, see faults.cu, with the fault or without.
#pragma once

#include <stdexcept>

namespace sdd::emulation {

// The kernel ran to its end and its result is not the host's.
class WrongResult : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Names: missing_barrier, global_overrun, shared_overrun, wrong_shuffle_mask, divergent_barrier,
// uninitialised_shared. Throws Error or WrongResult, or a sanitizer ends the process.
void run_fault(const char* name, bool faulty);

}  // namespace sdd::emulation
