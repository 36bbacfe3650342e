#include "counts.h"

#include "state.h"

namespace rnnfast::emulate {

void count_access(const Fiber&, uintptr_t, int, bool, bool, const void*) {}
void count_block(const Block&) {}
std::vector<AccessCount> counts() { return {}; }
void clear_counts() {}

}  // namespace rnnfast::emulate
