// Every word that only a GPU compiler knows, behind names of ours, so that a kernel is plain C++ over this header.
//
// nvcc reads the definitions below; with RNNFAST_EMULATE any C++ compiler reads emulate/words.h instead, whose run time
// runs the same kernels on a CPU and says what is wrong with them. What both share, because it is made of these words
// (grid.h) or of arithmetic (device_math.h), is included at the end. Threads of a block are numbered in one dimension.
//
// Order between threads comes from these alone: block_barrier, warp_sync (within its mask), a store_release or
// add_release whose value a load_acquire or wait_acquire of another thread reads, and the same with relaxed words
// and a device_fence on either side. Shuffles, votes and other atomics order nothing. A later launch of the same stream
// sees all of an earlier one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/macros.h"
#include "bf16.h"

namespace rnnfast::cuda {

// What one instruction can move, 8 or 16 bytes; a pointer to one must be a multiple of its size.
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};
struct alignas(16) UInt4 {
  uint32_t x, y, z, w;
};

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

}  // namespace rnnfast::cuda

#if defined(RNNFAST_EMULATE)

#include "emulate/words.h"

#else

// A kernel: RNNFAST_KERNEL(256, 1) name(Params p) { ... }, with its most threads a block and least blocks an SM.
#define RNNFAST_KERNEL(max_threads, min_blocks) __global__ void __launch_bounds__(max_threads, min_blocks)
#define RNNFAST_DEVICE __device__ __forceinline__
#define RNNFAST_UNROLL _Pragma("unroll")

namespace rnnfast::cuda {

// A line of a kernel, which only the emulator wants to know, and which it can do without.
struct Site {
  RNNFAST_DEVICE static constexpr Site here() { return {}; }
};
RNNFAST_DEVICE constexpr bool left_out(Site) { return false; }

RNNFAST_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
RNNFAST_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
RNNFAST_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
RNNFAST_DEVICE int grid_blocks() { return static_cast<int>(gridDim.x); }

// The block's dynamic shared memory from a byte offset on. Holds garbage at first.
template <class T>
RNNFAST_DEVICE T* shared(size_t offset = 0) {
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory + offset);
}

// Barriers. All threads of the block, or all lanes of the mask, must come to the same one.
RNNFAST_DEVICE void block_barrier() { __syncthreads(); }
RNNFAST_DEVICE void warp_sync(unsigned mask = kFullMask) { __syncwarp(mask); }

// Lanes that are in the mask, and only those, must call.
template <class T>
RNNFAST_DEVICE T shuffle(unsigned mask, T value, int source_lane) {
  return __shfl_sync(mask, value, source_lane);
}
template <class T>
RNNFAST_DEVICE T shuffle_xor(unsigned mask, T value, int lane_bits) {
  return __shfl_xor_sync(mask, value, lane_bits);
}
RNNFAST_DEVICE unsigned ballot(unsigned mask, bool yes) { return __ballot_sync(mask, yes); }
RNNFAST_DEVICE bool warp_any(unsigned mask, bool yes) { return __any_sync(mask, yes) != 0; }
RNNFAST_DEVICE bool warp_all(unsigned mask, bool yes) { return __all_sync(mask, yes) != 0; }

// Flags in global memory, and the fence that orders everything before and after it for the whole device.
RNNFAST_DEVICE void device_fence() { __threadfence(); }
RNNFAST_DEVICE void store_release(unsigned* flag, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
RNNFAST_DEVICE void store_relaxed(unsigned* flag, unsigned value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
RNNFAST_DEVICE void add_release(unsigned* flag, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
RNNFAST_DEVICE void add_relaxed(unsigned* flag, unsigned value) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
RNNFAST_DEVICE unsigned load_acquire(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
RNNFAST_DEVICE unsigned load_relaxed(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
// Until the flag has reached `value`, counted modulo 2^32. Whoever is to set it must be in the same cooperative launch.
RNNFAST_DEVICE void wait_acquire(const unsigned* flag, unsigned value) {
  while (static_cast<int>(load_acquire(flag) - value) < 0) {
  }
}
RNNFAST_DEVICE void wait_relaxed(const unsigned* flag, unsigned value) {
  while (static_cast<int>(load_relaxed(flag) - value) < 0) {
  }
}

// Relaxed; the value before. T: int, unsigned, unsigned long long.
template <class T>
RNNFAST_DEVICE T atomic_add(T* p, T value) {
  return atomicAdd(p, value);
}

namespace detail {
template <size_t bytes>
struct BitsOf;
template <>
struct BitsOf<2> {
  using Type = unsigned short;
};
template <>
struct BitsOf<4> {
  using Type = unsigned;
};
template <>
struct BitsOf<8> {
  using Type = uint2;
};
template <>
struct BitsOf<16> {
  using Type = uint4;
};
template <class W>
using Bits = typename BitsOf<sizeof(W)>::Type;
template <class To, class From>
RNNFAST_DEVICE To cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace detail

// One access of sizeof(W) = 2, 4, 8 or 16 bytes, as load<Float4>(p), of any memory; load_l2 passes by L1, for what
// other blocks write.
template <class W>
RNNFAST_DEVICE W load(const void* p) {
  return detail::cast<W>(*static_cast<const detail::Bits<W>*>(p));
}
template <class W>
RNNFAST_DEVICE W load_l2(const void* p) {
  return detail::cast<W>(__ldcg(static_cast<const detail::Bits<W>*>(p)));
}
template <class W>
RNNFAST_DEVICE void store(void* p, W value) {
  *static_cast<detail::Bits<W>*>(p) = detail::cast<detail::Bits<W>>(value);
}

// Copies global to shared memory behind the thread's back. The copies since the last async_commit are a group;
// async_wait<n> waits until all but the last n groups of this thread are there, for this thread: others need a barrier
// too. Of the 16 bytes, those beyond `valid` (0 to 16) become zero and are not read.
RNNFAST_DEVICE void async_copy16(void* to_shared, const void* from_global, int valid = 16) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
      "l"(from_global), "r"(valid)
      : "memory");
}
RNNFAST_DEVICE void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups>
RNNFAST_DEVICE void async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// d += a b on a warp: a is 16 x 16 bf16 by rows, b 16 x 8 by columns, d 16 x 8 float. With g = lane / 4, q = lane % 4
// and pairs of neighbouring k (of a, b) or columns (of d), the lower one in the lower half or first:
//   a[0] row g, k 2q;  a[1] row g + 8, k 2q;  a[2] row g, k 2q + 8;  a[3] row g + 8, k 2q + 8
//   b[0] k 2q, column g;  b[1] k 2q + 8, column g;   d[0..1] row g, columns 2q, 2q + 1;  d[2..3] the same of row g + 8
RNNFAST_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace rnnfast::cuda

#endif

#include "device_math.h"
#include "grid.h"
