// The instruction set in use, and those that could be.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"
#include "ops_kernels.h"

namespace rnnfast {

std::string isa_name();                // throws std::runtime_error where RNNFAST_ISA names none that works
std::vector<std::string> isa_names();  // best first

}  // namespace rnnfast
