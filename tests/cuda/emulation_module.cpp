// The CUDA kernels as CPU operators, for tests: this module registers every operator of sdd_fast
// with the CUDA entries, compiled with SDD_HOST_EMULATION, as its CPU kernels. SDD_FAST_LIBRARY
// names it to sdd_fast in place of the library; imported as well, it tells what the kernels did.
#include <pybind11/pybind11.h>

#include "../../csrc/host_emulation/cuda_emulation.h"
#include "emulation_tests.h"

namespace py = pybind11;
using namespace sdd::emulation;

PYBIND11_MODULE(_emulation, m) {
  py::enum_<Schedule>(m, "Schedule")
      .value("FORWARD", Schedule::kForward)
      .value("REVERSE", Schedule::kReverse)
      .value("RANDOM", Schedule::kRandom);
  py::register_exception<Error>(m, "EmulationError", PyExc_RuntimeError);
  m.def("set_schedule", &set_schedule, py::arg("schedule"), py::arg("seed") = 0,
        "Which thread of a block runs next, and which block follows.");
  m.def("reset_counts", &reset_counts);
  m.def(
      "counts",
      [] {
        const Counts c = counts();
        py::dict d;
        d["launches"] = c.launches;
        d["threads"] = c.threads;
        d["barriers"] = c.barriers;
        d["grid"] = py::make_tuple(c.grid.x, c.grid.y, c.grid.z);
        d["block"] = py::make_tuple(c.block.x, c.block.y, c.block.z);
        return d;
      },
      "Since reset_counts(); grid and block are those of the last launch.");
  m.def("self_test", &self_test, "Tests the emulation itself; throws where it is wrong.");
  m.def("run_fault", &run_fault, py::arg("name"), py::arg("faulty"),
        "A kernel with a fault, or the same without.");
}
