// The words of device.h for a C++ compiler: calls into the emulator's run time (emulate.h). One CUDA thread is a fiber;
// it runs alone until it calls one of the words that wait. A kernel source compiled with RNNFAST_EMULATE_CHECKED, whose
// plain accesses the compiler reports as well (cmake/cuda.cmake), has all its accesses checked; without it the loads
// and stores here are as fast as any.
//
// A word knows the line that it is called from, so that a report can name it and two barriers are told apart.
#pragma once

#include <bit>
#include <cstring>

#define RNNFAST_KERNEL(max_threads, min_blocks) __attribute__((noinline)) void
#define RNNFAST_DEVICE inline __attribute__((always_inline))
#define RNNFAST_UNROLL
#define RNNFAST_PURE __attribute__((const))  // the same for a fiber as long as it lives

namespace rnnfast::emulate {

struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

bool left_out(Where where);
RNNFAST_PURE int thread_index();
RNNFAST_PURE int block_threads();
RNNFAST_PURE int block_index();
RNNFAST_PURE int grid_blocks();
RNNFAST_PURE unsigned char* shared_memory();

enum class Vote { ballot, any, all };
void block_barrier(Where);
void warp_sync(unsigned mask, Where);
uint64_t shuffle(unsigned mask, uint64_t value, int source_lane, Where);
unsigned vote(Vote, unsigned mask, bool yes, Where);
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, Where);

void device_fence(Where);
void store_flag(unsigned* flag, unsigned value, bool release, Where);
void add_flag(unsigned* flag, unsigned value, bool release, Where);
unsigned load_flag(const unsigned* flag, bool acquire, Where);
void wait_flag(const unsigned* flag, unsigned value, bool acquire, Where);

uint64_t atomic_add(void* p, size_t bytes, uint64_t value);

void async_copy(void* to_shared, const void* from_global, int valid, Where);
void async_commit();
void async_wait(int groups, Where);

// Checked accesses: through the run time, in one piece.
typedef uint32_t Wide __attribute__((vector_size(16)));
uint16_t read2(const void* p);
uint32_t read4(const void* p);
uint64_t read8(const void* p);
Wide read16(const void* p);
void write2(void* p, uint16_t);
void write4(void* p, uint32_t);
void write8(void* p, uint64_t);
void write16(void* p, Wide);

template <class W>
RNNFAST_DEVICE W read(const void* p) {
#if !defined(RNNFAST_EMULATE_CHECKED)
  W value;
  std::memcpy(&value, p, sizeof value);
  return value;
#else
  if constexpr (sizeof(W) == 2) return std::bit_cast<W>(read2(p));
  if constexpr (sizeof(W) == 4) return std::bit_cast<W>(read4(p));
  if constexpr (sizeof(W) == 8) return std::bit_cast<W>(read8(p));
  if constexpr (sizeof(W) == 16) return std::bit_cast<W>(read16(p));
#endif
}
template <class W>
RNNFAST_DEVICE void write(void* p, W value) {
#if !defined(RNNFAST_EMULATE_CHECKED)
  std::memcpy(p, &value, sizeof value);
#else
  if constexpr (sizeof(W) == 2) return write2(p, std::bit_cast<uint16_t>(value));
  if constexpr (sizeof(W) == 4) return write4(p, std::bit_cast<uint32_t>(value));
  if constexpr (sizeof(W) == 8) return write8(p, std::bit_cast<uint64_t>(value));
  if constexpr (sizeof(W) == 16) return write16(p, std::bit_cast<Wide>(value));
#endif
}
template <class T>
RNNFAST_DEVICE uint64_t to_word(T value) {
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}
template <class T>
RNNFAST_DEVICE T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace rnnfast::emulate

namespace rnnfast::cuda {

using Site = emulate::Where;

RNNFAST_DEVICE int thread_index() { return emulate::thread_index(); }
RNNFAST_DEVICE int block_threads() { return emulate::block_threads(); }
RNNFAST_DEVICE int block_index() { return emulate::block_index(); }
RNNFAST_DEVICE int grid_blocks() { return emulate::grid_blocks(); }
template <class T>
RNNFAST_DEVICE T* shared(size_t offset = 0) {
  return reinterpret_cast<T*>(emulate::shared_memory() + offset);
}

RNNFAST_DEVICE void block_barrier(Site site = Site::here()) { emulate::block_barrier(site); }
RNNFAST_DEVICE void warp_sync(unsigned mask = kFullMask, Site site = Site::here()) { emulate::warp_sync(mask, site); }
template <class T>
RNNFAST_DEVICE T shuffle(unsigned mask, T value, int source_lane, Site site = Site::here()) {
  return emulate::from_word<T>(emulate::shuffle(mask, emulate::to_word(value), source_lane & (kWarp - 1), site));
}
template <class T>
RNNFAST_DEVICE T shuffle_xor(unsigned mask, T value, int lane_bits, Site site = Site::here()) {
  const int source = (emulate::thread_index() & (kWarp - 1)) ^ lane_bits;
  return emulate::from_word<T>(emulate::shuffle(mask, emulate::to_word(value), source, site));
}
RNNFAST_DEVICE unsigned ballot(unsigned mask, bool yes, Site site = Site::here()) {
  return emulate::vote(emulate::Vote::ballot, mask, yes, site);
}
RNNFAST_DEVICE bool warp_any(unsigned mask, bool yes, Site site = Site::here()) {
  return emulate::vote(emulate::Vote::any, mask, yes, site) != 0;
}
RNNFAST_DEVICE bool warp_all(unsigned mask, bool yes, Site site = Site::here()) {
  return emulate::vote(emulate::Vote::all, mask, yes, site) != 0;
}

RNNFAST_DEVICE void device_fence(Site site = Site::here()) { emulate::device_fence(site); }
RNNFAST_DEVICE void store_release(unsigned* flag, unsigned value, Site site = Site::here()) {
  emulate::store_flag(flag, value, true, site);
}
RNNFAST_DEVICE void store_relaxed(unsigned* flag, unsigned value, Site site = Site::here()) {
  emulate::store_flag(flag, value, false, site);
}
RNNFAST_DEVICE void add_release(unsigned* flag, unsigned value, Site site = Site::here()) {
  emulate::add_flag(flag, value, true, site);
}
RNNFAST_DEVICE void add_relaxed(unsigned* flag, unsigned value, Site site = Site::here()) {
  emulate::add_flag(flag, value, false, site);
}
RNNFAST_DEVICE unsigned load_acquire(const unsigned* flag, Site site = Site::here()) {
  return emulate::load_flag(flag, true, site);
}
RNNFAST_DEVICE unsigned load_relaxed(const unsigned* flag, Site site = Site::here()) {
  return emulate::load_flag(flag, false, site);
}
RNNFAST_DEVICE void wait_acquire(const unsigned* flag, unsigned value, Site site = Site::here()) {
  emulate::wait_flag(flag, value, true, site);
}
RNNFAST_DEVICE void wait_relaxed(const unsigned* flag, unsigned value, Site site = Site::here()) {
  emulate::wait_flag(flag, value, false, site);
}

template <class T>
RNNFAST_DEVICE T atomic_add(T* p, T value) {
  return emulate::from_word<T>(emulate::atomic_add(p, sizeof(T), emulate::to_word(value)));
}

template <class W>
RNNFAST_DEVICE W load(const void* p) {
  return emulate::read<W>(p);
}
template <class W>
RNNFAST_DEVICE W load_l2(const void* p) {
  return emulate::read<W>(p);
}
template <class W>
RNNFAST_DEVICE void store(void* p, W value) {
  emulate::write<W>(p, value);
}

RNNFAST_DEVICE void async_copy16(void* to_shared, const void* from_global, int valid = 16, Site site = Site::here()) {
  emulate::async_copy(to_shared, from_global, valid, site);
}
RNNFAST_DEVICE void async_commit() { emulate::async_commit(); }
template <int groups>
RNNFAST_DEVICE void async_wait(Site site = Site::here()) {
  emulate::async_wait(groups, site);
}

RNNFAST_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
  emulate::mma_bf16(d, a, b, site);
}

}  // namespace rnnfast::cuda
