// Where device memory is: one range of addresses for all that allocate_async gives, one for the shared buffers of
// resident blocks, and host arrays that were registered. Each piece has its own shadow (races.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rnnfast::emulate {

struct Cell;  // races.h

struct Allocation {
  uintptr_t begin = 0, end = 0;
  Cell* cells = nullptr;   // one for each 4 bytes
  Cell* halves = nullptr;  // for the upper 2 of them, once an access was narrower
  bool is_shared = false;
};

constexpr uint8_t kPoison = 0xff;  // makes a NaN of every float

void* allocate(size_t bytes);
void release(void* p);                                           // a Fault where it is not live
void check_live(const void* p, size_t bytes, const char* what);  // of the host, to device memory

// The allocation that has all of these bytes; else null, and why() says what there is instead.
Allocation* find_global(uintptr_t address, size_t bytes);
std::string why_outside(uintptr_t address, size_t bytes);

Allocation* shared_buffer(size_t slot, size_t bytes);  // poisoned
void make_cells(Allocation& allocation);               // before the first checked access
void make_halves(Allocation& allocation);
void forget_shared_cells();
void forget_global_cells();

}  // namespace rnnfast::emulate
