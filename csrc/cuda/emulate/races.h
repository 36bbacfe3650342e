// Who knows of whose accesses. See races.cpp.
#pragma once

#include <cstdint>

namespace rnnfast::emulate {

struct Allocation;
struct Block;
struct Fiber;

struct Cell {  // the last accesses to 4 bytes: who and when (Epoch in races.cpp), and where in the code
  uint64_t write, read;
  int32_t write_pc, read_pc;
};

void begin_races(int64_t blocks);  // a launch
void begin_shared();               // shared memory begins anew: a launch, or a block where they run one at a time

enum class Kind { plain, atomic, begin_copy, end_copy };
void track(Fiber& fiber, Allocation& allocation, uintptr_t address, int bytes, bool write, Kind kind, const void* pc);

}  // namespace rnnfast::emulate
