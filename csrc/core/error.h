// What the core throws. Bad arguments are found in Python; these are what only the core can know.
#pragma once

#include <stdexcept>

namespace rnnfast {

// The caller asked a running call to stop (Ctrl-C). Nothing the caller can see has changed.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

}  // namespace rnnfast
