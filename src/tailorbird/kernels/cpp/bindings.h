// What the files that make up the Python module share.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "kernels.h"

namespace tailorbird {

// "int8" or "fp32"; throws std::invalid_argument.
Activations mode_of(const std::string& name);

void bind_decoder(nanobind::module_& m);
void bind_trellis(nanobind::module_& m);

}  // namespace tailorbird
