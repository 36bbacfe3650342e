// What the emulator reports besides races: barriers and masks that threads do not agree on, deadlock, accesses that are
// out of bounds or misaligned, launches that a device would refuse.
#include "emulated.h"

namespace {

using namespace rnnfast::cuda;
using emulated::Params;
using emulated::planted;

int mine() { return block_index() * block_threads() + thread_index(); }

template <bool fault>
RNNFAST_KERNEL(1024, 1)
two_barriers(Params) {
  if (!fault || thread_index() < 10) {
    block_barrier();
  } else {
    block_barrier();
  }
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
thread_returns(Params) {
  if (fault && thread_index() == 5) return;
  block_barrier();
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
one_barrier_more(Params) {
  for (int i = 0; i < (fault && thread_index() == 7 ? 3 : 2); ++i) block_barrier();
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
nobody_sets_it(Params p) {
  if (mine() == 3 && !fault) store_release(p.words, 1);
  if (mine() == 0) wait_acquire(p.words, 1);
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
polls_for_ever(Params p) {
  if (mine() == 0 && fault)
    while (load_acquire(p.words) == 0) {
    }
}

template <bool fault>  // in a plain launch a block may have to end before another begins
RNNFAST_KERNEL(1024, 1) waits_for_a_block(Params p) {
  if (thread_index() != 0) return;
  if (block_index() == 0) add_release(p.words, 1);
  if (block_index() == 1) add_release(p.words, 1);
  if (fault) wait_acquire(p.words, 2);
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
lanes_and_barrier(Params) {
  if (fault && thread_index() == 4) block_barrier();
  warp_sync();
  if (!fault || thread_index() != 4) block_barrier();
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
exited_lane(Params) {
  if (thread_index() % kWarp == 9) return;
  warp_sync(fault ? kFullMask : kFullMask & ~(1u << 9));
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
without_itself(Params) {
  const unsigned mask = fault ? 0x7fffffffu : kFullMask;
  if (warp_any(mask, true)) warp_sync();
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
no_such_lane(Params) {  // of 40 threads
  warp_sync(thread_index() < kWarp || fault ? kFullMask : 0xffu);
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
two_masks(Params) {
  const bool low = thread_index() % kWarp < 16;
  const unsigned mask = low ? 0xffffu : fault ? kFullMask : 0xffff0000u;
  if (ballot(mask, true) == mask) warp_sync();
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
two_operations(Params) {
  if (fault && thread_index() % kWarp == 3) {
    warp_all(kFullMask, true);
  } else {
    warp_sync();
  }
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
lane_outside(Params) {
  if (thread_index() % kWarp < 8) shuffle(0xffu, 1.0f, fault ? 8 : 7);
}

__attribute__((noinline)) int use_stack(int depth) {
  volatile char all[1000];
  for (volatile char& each : all) each = static_cast<char>(depth);
  return depth > 0 ? use_stack(depth - 1) + all[depth] : all[0];
}
template <bool fault>
RNNFAST_KERNEL(1024, 1)
deep(Params) {
  if (use_stack(fault ? 33 : 4) < 100000) block_barrier();
}

#if defined(RNNFAST_EMULATE_CHECKED)

float host_array[4];

enum class Bounds { right, past, before, host, shared, other_block, wide };
template <Bounds kind>
RNNFAST_KERNEL(1024, 1)
bounds(Params p) {
  float* s = shared<float>();
  const bool last = mine() == grid_blocks() * block_threads() - 1;
  float local[64];  // of the thread: always right
  for (int i = 0; i < 64; ++i) local[i ^ p.n % 64] = static_cast<float>(i);
  float value = local[p.n % 7];
  if (kind == Bounds::right) value += p.x[p.n - 1] + load<Float4>(p.x + p.n - 4).w;
  if (kind == Bounds::past && last) value += p.x[p.n];
  if (kind == Bounds::before && last) value += p.x[-1];
  if (kind == Bounds::host && last) value += host_array[thread_index() % 4];
  if (kind == Bounds::shared && last) s[1024] = 1;
  if (kind == Bounds::other_block && last) s[65536] = 1;
  if (kind == Bounds::wide && last) value += load<Float4>(p.x + p.n - 2).x;
  p.y[mine()] = value;
}

enum class Align { right, wide, two, narrow, copy_from, copy_to };
template <Align kind>
RNNFAST_KERNEL(1024, 1)
alignment(Params p) {
  float* s = shared<float>();
  const int t = thread_index();
  if (kind == Align::right) p.y[t] = load<Float4>(p.x + 4 * t).x + load<Float2>(p.x + 2 * t).y;
  if (kind == Align::wide) p.y[t] = load<Float4>(p.x + t).x;
  if (kind == Align::two) p.y[t] = load<Float2>(p.x + t).x;
  if (kind == Align::narrow) *reinterpret_cast<float*>(reinterpret_cast<char*>(p.y) + 4 * t + 2) = 1;
  if (kind == Align::copy_from) async_copy16(s + 4 * t, p.x + t);
  if (kind == Align::copy_to) async_copy16(s + t, p.x + 4 * t);
  async_commit();
  async_wait<0>();
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
copy_past_the_end(Params p) {
  async_copy16(shared<float>() + 4 * thread_index(),
               p.x + p.n - 4 * (block_threads() - thread_index()) + (fault ? 4 : 0));
  async_commit();
  async_wait<0>();
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
copy_to_global(Params p) {
  async_copy16(fault ? p.y : shared<float>() + 4 * thread_index(), p.x + 4 * thread_index());
  async_commit();
  async_wait<0>();
}

void accesses() {
  const emulated::Shape block{1, 32, false, 4096};
  const auto right = bounds<Bounds::right>;
  host_array[0] = 1;
  planted("past the end", right, bounds<Bounds::past>, block, "4 bytes past the end of the nearest allocation");
  planted("before", right, bounds<Bounds::before>, block, "out of bounds");
  planted("host memory", right, bounds<Bounds::host>, block, "of host memory");
  planted("shared memory", right, bounds<Bounds::shared>, block, "past the end of the block's shared memory of 4096");
  planted("another block", right, bounds<Bounds::other_block>, {2, 32, true, 4096}, "out of bounds");
  planted("half of it outside", right, bounds<Bounds::wide>, block, "reads 16 bytes");
  const auto aligned = alignment<Align::right>;
  planted("16 bytes", aligned, alignment<Align::wide>, block, "misaligned: block 0 thread");
  planted("8 bytes", aligned, alignment<Align::two>, block, "misaligned");
  planted("4 bytes", aligned, alignment<Align::narrow>, block, "writes 4 bytes at an address that is 2 beyond");
  planted("copy from", aligned, alignment<Align::copy_from>, block, "misaligned");
  planted("copy to", aligned, alignment<Align::copy_to>, block, "misaligned");
  planted("copy past the end", copy_past_the_end<false>, copy_past_the_end<true>, block, "out of bounds");
  planted("copy to global memory", copy_to_global<false>, copy_to_global<true>, block, "not its block's shared memory");

  Params gone = emulated::Arrays().params;  // freed again at once
  emulated::check(emulated::run(right, block, gone).find("that are not live") != std::string::npos, "after free");
  gone.x = nullptr, gone.n = 8;
  emulated::check(emulated::run(right, block, gone).find("at a null pointer") != std::string::npos, "null pointer");

  // Host memory becomes device memory by registering it, and not for longer.
  std::vector<float> host(emulated::kSize, 1.0f);
  emulated::Arrays arrays;
  Params params = arrays.params;
  params.x = host.data();
  emulated::emulate::register_memory(host.data(), host.size() * sizeof(float));
  emulated::check(emulated::run(right, block, params).empty(), "registered memory is reported");
  const std::string past = emulated::run(bounds<Bounds::past>, block, params);
  emulated::check(past.find("out of bounds") != std::string::npos, "nothing past the end of registered memory");
  emulated::emulate::unregister_memory(host.data());
  emulated::check(!emulated::run(right, block, params).empty(), "memory is registered for ever");
}

#else
void accesses() {}
#endif

void launches() {
  emulated::Arrays arrays;
  const auto kernel = two_barriers<false>;
  const auto refused = [&](const Launch& shape, const char* report) {
    try {
      launch("refused", kernel, shape, arrays.params);
    } catch (const Error& error) {
      const std::string what = error.what();
      emulated::check(what.find(report) != std::string::npos && what.find("launch of refused") != std::string::npos &&
                          what.find("test_emulate_faults.cpp") != std::string::npos,
                      "refused with: " + what);
      return;
    }
    emulated::check(false, std::string("launched: ") + report);
  };
  refused({1, 1025, 0, nullptr}, "1025 threads a block");
  refused({1, 0, 0, nullptr}, "0 threads a block");
  refused({1, 32, (227 << 10) + 1, nullptr}, "232449 bytes of shared memory");
  refused({0, 32, 0, nullptr}, "a grid of 0 blocks");
  refused({int64_t{1} << 31, 32, 0, nullptr}, "a grid of 2147483648 blocks");

  try {
    copy_async(arrays.params.x, arrays.params.y + 1, emulated::kSize * sizeof(float), nullptr);
    emulated::check(false, "a copy beyond the end");
  } catch (const emulated::emulate::Fault& fault) {
    emulated::check(std::strstr(fault.what(), "4 bytes past the end") != nullptr, fault.what());
  }

  emulated::emulate::Options& options = emulated::emulate::options();
  const emulated::emulate::Options before = options;
  options.sms = 3;
  const int64_t one_each = resident_blocks("kernel", kernel, 32, 120 << 10),
                by_threads = resident_blocks("kernel", kernel, 1024, 0);
  emulated::check(one_each == 3 && by_threads == 6,
                  "resident blocks: " + std::to_string(one_each) + ", " + std::to_string(by_threads));
  emulated::check(launch_cooperative("fits", kernel, {3, 32, 120 << 10, nullptr}, arrays.params), "3 blocks fit");
  emulated::check(!launch_cooperative("too many", kernel, {4, 32, 120 << 10, nullptr}, arrays.params), "4 do not");
  options.shared_per_block = 99 << 10;
  emulated::check(resident_blocks("kernel", kernel, 32, 120 << 10) == 0, "more shared memory than a block may have");
  options = before;
}

}  // namespace

int main() {
  const emulated::Shape block{2, 64, false, 4096}, grid{4, 64, true, 4096};
  planted("two barriers", two_barriers<false>, two_barriers<true>, block, "divergent barrier");
  planted("a thread returns", thread_returns<false>, thread_returns<true>, block, "divergent barrier");
  planted("one barrier more", one_barrier_more<false>, one_barrier_more<true>, block, "divergent barrier");
  planted("nobody sets the flag", nobody_sets_it<false>, nobody_sets_it<true>, grid,
          "deadlock: 1 threads wait for ever");
  planted("polls", polls_for_ever<false>, polls_for_ever<true>, grid, "loads the same flag for ever");
  planted("waits for a block", waits_for_a_block<false>, waits_for_a_block<true>, block, "a plain launch");
  planted("lanes and barrier", lanes_and_barrier<false>, lanes_and_barrier<true>, {1, 32, false, 0}, "deadlock");
  planted("exited lane", exited_lane<false>, exited_lane<true>, block, "returned");
  planted("mask without itself", without_itself<false>, without_itself<true>, block, "does not name the thread itself");
  planted("no such lane", no_such_lane<false>, no_such_lane<true>, {1, 40, false, 0},
          "lanes that the block does not have");
  planted("two masks", two_masks<false>, two_masks<true>, block, "divergent warp");
  planted("two operations", two_operations<false>, two_operations<true>, block, "divergent warp");
  planted("lane outside of the mask", lane_outside<false>, lane_outside<true>, block, "reads lane 8");
#if !defined(__SANITIZE_ADDRESS__)
  planted("stack", deep<false>, deep<true>, {1, 1, false, 0}, "stack");
#endif
  accesses();
  launches();
  return emulated::failures > 0;
}
