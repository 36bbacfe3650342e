// Accesses of the lanes of a warp, put together as the instruction that they were on a GPU: the same place in the code,
// the same number of times since the last barrier of the block. From that, shared memory's bank conflicts and global
// memory's sectors.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnnfast::emulate {

struct Block;
struct Fiber;

void count_access(const Fiber& fiber, uintptr_t address, int bytes, bool write, bool shared, const void* pc);
void count_launch(const char* kernel, size_t shared_bytes);
void count_block(const Block& block);  // all its threads have come to a barrier or to the end

}  // namespace rnnfast::emulate
