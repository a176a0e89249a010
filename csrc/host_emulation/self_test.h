// Checks of the emulation itself that need no sanitizer, see self_test.cu.
#pragma once

namespace sdd::emulation {

// Throws std::logic_error that names the line of the first failed check. Leaves the schedule
// forward.
void self_test();

}  // namespace sdd::emulation
