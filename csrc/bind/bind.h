#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

namespace kbit {

void bind_runtime(nb::module_& m);  // threads, instruction sets
void bind_packing(nb::module_& m);  // codes <-> planes
void bind_rotation(nb::module_& m);  // rows of weights and inputs, rotated
void bind_encode(nb::module_& m);   // weights -> codes and scales
void bind_trellis(nb::module_& m);  // weights -> steps of a trellis
void bind_matrix(nb::module_& m);   // packed matrices and their products
void bind_engine(nb::module_& m);   // forward steps and their cache

}  // namespace kbit
