#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <new>
#include <vector>

#include "races.h"
#include "state.h"

#if defined(RNNFAST_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace rnnfast::emulate {
namespace {

// AddressSanitizer, where it is there, sees the bounds as well.
void close_memory([[maybe_unused]] uintptr_t begin, [[maybe_unused]] size_t bytes) {
#if defined(RNNFAST_ASAN)
  __asan_poison_memory_region(reinterpret_cast<void*>(begin), bytes);
#endif
}
void open_memory([[maybe_unused]] uintptr_t begin, [[maybe_unused]] size_t bytes) {
#if defined(RNNFAST_ASAN)
  __asan_unpoison_memory_region(reinterpret_cast<void*>(begin), bytes);
#endif
}

constexpr size_t kHeapBytes = size_t{8} << 30, kGranule = 256, kCellBytes = 4;
constexpr size_t kSharedSlot = 256 << 10, kSlots = 4096;

void* map_addresses(size_t bytes) {  // memory comes with the first touch, zero
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return p;
}

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// An array of cells beside each range of addresses: as many as the range has 4 bytes.
struct Range {
  uintptr_t begin = 0;
  size_t bytes = 0;
  Cell *cells = nullptr, *halves = nullptr;

  void map(size_t n) {
    begin = reinterpret_cast<uintptr_t>(map_addresses(n));
    bytes = n;
  }
  void map_cells() {
    if (cells == nullptr) cells = static_cast<Cell*>(map_addresses(bytes / kCellBytes * sizeof(Cell)));
  }
  void map_halves() {
    if (halves == nullptr) halves = static_cast<Cell*>(map_addresses(bytes / kCellBytes * sizeof(Cell)));
  }
  void forget() const {
    for (Cell* each : {cells, halves})
      if (each != nullptr) madvise(each, bytes / kCellBytes * sizeof(Cell), MADV_DONTNEED);  // zero again
  }
  size_t cell_of(uintptr_t address) const { return (address - begin) / kCellBytes; }
};

struct Memory {
  Range heap, shared;
  Allocation** owner = nullptr;        // of each granule of the heap; null none
  std::deque<Allocation> allocations;  // stay where they are
  std::vector<Allocation*> unused;
  size_t top = 0;                                 // of the heap so far
  std::map<size_t, std::deque<uintptr_t>> freed;  // by rounded size, the oldest first
  std::deque<Allocation> slots;
  struct Foreign {
    Allocation allocation;
    std::vector<Cell> cells, halves;
  };
  std::map<uintptr_t, Foreign> foreign;

  Memory() {
    heap.map(kHeapBytes);
    shared.map(kSharedSlot * kSlots);
    owner = static_cast<Allocation**>(map_addresses(kHeapBytes / kGranule * sizeof *owner));
  }
};

Memory& memory() {
  static Memory* all = new Memory;  // outlives every static destructor
  return *all;
}

Memory* found_memory;  // the same, without a guard: for each access

// Few different sizes, so that what was freed is used again; and at least a granule that belongs to nobody behind each.
size_t rounded(size_t bytes) {
  size_t step = kGranule;
  while (step * 8 < bytes) step *= 2;
  return round_up(bytes + kGranule, step);
}

}  // namespace

void* allocate(size_t bytes) {
  Memory& m = memory();
  bytes = std::max<size_t>(bytes, 1);
  const size_t size = rounded(bytes);
  uintptr_t begin;
  std::deque<uintptr_t>& again = m.freed[size];
  if (!again.empty()) {
    begin = again.front();
    again.pop_front();
  } else {
    if (m.top + size > kHeapBytes) throw std::bad_alloc();
    begin = m.heap.begin + m.top;
    m.top += size;
    close_memory(begin, size);
  }
  if (m.unused.empty()) {
    m.allocations.emplace_back();
    m.unused.push_back(&m.allocations.back());
  }
  Allocation* allocation = m.unused.back();
  m.unused.pop_back();
  *allocation = {};
  allocation->begin = begin, allocation->end = begin + bytes;
  const size_t first = (begin - m.heap.begin) / kGranule;
  std::fill_n(m.owner + first, (bytes + kGranule - 1) / kGranule, allocation);
  open_memory(begin, bytes);
  std::memset(reinterpret_cast<void*>(begin), kPoison, bytes);
  return reinterpret_cast<void*>(begin);
}

void release(void* p) {
  if (p == nullptr) return;
  Memory& m = memory();
  const auto begin = reinterpret_cast<uintptr_t>(p);
  const size_t first = (begin - m.heap.begin) / kGranule;
  Allocation* allocation = begin - m.heap.begin < kHeapBytes ? m.owner[first] : nullptr;
  if (allocation == nullptr || allocation->begin != begin)
    throw Fault("free_async of what allocate_async did not give or what is free already");
  const size_t bytes = allocation->end - begin;
  std::fill_n(m.owner + first, (bytes + kGranule - 1) / kGranule, nullptr);
  m.freed[rounded(bytes)].push_back(begin);
  close_memory(begin, bytes);
  m.unused.push_back(allocation);
}

Allocation* find_global(uintptr_t address, size_t bytes) {
  Memory& m = *found_memory;
  if (address - m.heap.begin < kHeapBytes) {
    Allocation* found = m.owner[(address - m.heap.begin) / kGranule];
    return found != nullptr && address + bytes <= found->end ? found : nullptr;
  }
  if (m.foreign.empty()) return nullptr;
  auto next = m.foreign.upper_bound(address);
  if (next == m.foreign.begin()) return nullptr;
  Allocation& found = (--next)->second.allocation;
  return address + bytes <= found.end ? &found : nullptr;
}

void check_live(const void* p, size_t bytes, const char* what) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  found_memory = &memory();
  if (address - found_memory->heap.begin < kHeapBytes && find_global(address, bytes) == nullptr)
    throw Fault("out of bounds: " + (what + (" " + std::to_string(bytes) + " bytes ")) + why_outside(address, bytes));
}

std::string why_outside(uintptr_t address, size_t bytes) {
  Memory& m = memory();
  const auto beyond = [&](const Allocation& a, const char* what) {
    const bool before = address < a.begin;
    const size_t distance = before ? a.begin - address : address + bytes - a.end;
    return std::to_string(distance) + (before ? " bytes before the " : " bytes past the end of the ") + what + " of " +
           std::to_string(a.end - a.begin) + " bytes";
  };
  if (self != nullptr && address - m.shared.begin < m.shared.bytes) {
    const Allocation& mine = *self->block->shared;
    if (address - mine.begin < kSharedSlot) return beyond(mine, "block's shared memory");
    return "of another block's shared memory";
  }
  if (address - m.heap.begin < kHeapBytes) {
    for (size_t i = (address - m.heap.begin) / kGranule + 1; i-- > 0;)
      if (m.owner[i] != nullptr) return "that are not live, " + beyond(*m.owner[i], "nearest allocation");
    return "that are not live device memory";
  }
  if (machine.stacks.contains(address)) return "of another thread's stack or past the end of its own";
  if (address < 4096) return "at a null pointer";
  return "of host memory";
}

Allocation* shared_buffer(size_t slot, size_t bytes) {
  Memory& m = memory();
  found_memory = &m;
  if (slot >= kSlots || bytes > kSharedSlot - kGranule) throw Fault("more shared memory than the emulator has");
  while (m.slots.size() <= slot) {
    m.slots.emplace_back();
    m.slots.back().begin = m.shared.begin + (m.slots.size() - 1) * kSharedSlot;
    m.slots.back().is_shared = true;
  }
  Allocation& buffer = m.slots[slot];
  buffer.end = buffer.begin + bytes;
  close_memory(buffer.begin, kSharedSlot);
  open_memory(buffer.begin, bytes);
  std::memset(reinterpret_cast<void*>(buffer.begin), kPoison, bytes);
  return &buffer;
}

void make_cells(Allocation& a) {
  Memory& m = memory();
  const auto foreign = m.foreign.find(a.begin);
  if (foreign != m.foreign.end()) {
    foreign->second.cells.assign((a.end - a.begin) / kCellBytes + 1, Cell{});
    a.cells = foreign->second.cells.data();
  } else {
    Range& range = a.is_shared ? m.shared : m.heap;
    range.map_cells();
    a.cells = range.cells + range.cell_of(a.begin);
  }
}

void make_halves(Allocation& a) {
  Memory& m = memory();
  const size_t n = ((a.is_shared ? a.begin + kSharedSlot : a.end) - a.begin + kCellBytes - 1) / kCellBytes;
  const auto foreign = m.foreign.find(a.begin);
  if (foreign != m.foreign.end()) {
    foreign->second.halves.resize(n);
    a.halves = foreign->second.halves.data();
  } else {
    Range& range = a.is_shared ? m.shared : m.heap;
    range.map_halves();
    a.halves = range.halves + range.cell_of(a.begin);
  }
  std::copy_n(a.cells, n, a.halves);
}

void forget_shared_cells() { memory().shared.forget(); }

void forget_global_cells() {
  Memory& m = memory();
  m.heap.forget();
  for (auto& [begin, each] : m.foreign) {
    std::fill(each.cells.begin(), each.cells.end(), Cell{});
    std::fill(each.halves.begin(), each.halves.end(), Cell{});
  }
}

void register_memory(void* p, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(p);
  Allocation& a = memory().foreign[begin].allocation;
  a = {};
  a.begin = begin, a.end = begin + bytes;
}

void unregister_memory(void* p) { memory().foreign.erase(reinterpret_cast<uintptr_t>(p)); }

}  // namespace rnnfast::emulate
