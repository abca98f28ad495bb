// Threads, instruction sets and the machine's roofs.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bind.h"
#include "kbit/roof.h"
#include "kbit/threads.h"
#include "kernels.h"

namespace kbit {

void bind_runtime(nb::module_& m) {
  m.def("isa", [] { return std::string(active_kernels().name); });
  m.def("available_isas", [] {
    const Kernels* all[8];
    std::vector<std::string> names;
    const int count = available_kernels(all, 8);
    for (int i = 0; i < count; ++i) names.emplace_back(all[i]->name);
    return names;
  });
  m.def("set_isa", [](const std::string& name) { return select_kernels(name.c_str()); }, nb::arg("name"));
  m.def("threads", &threads::default_count);
  m.def("set_threads", &threads::set_default_count, nb::arg("count"));
  m.def("memory_roof", &memory_roof, nb::arg("size_bytes"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>());
  m.def("int8_roof", &int8_roof, nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace kbit
