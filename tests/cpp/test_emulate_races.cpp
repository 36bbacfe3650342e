// Data races: for each word that orders accesses, kernels that are right with it and wrong without.
#include "emulated.h"

namespace {

using namespace rnnfast::cuda;
using emulated::Params;
using emulated::planted;

int mine() { return block_index() * block_threads() + thread_index(); }

template <bool fault>
RNNFAST_KERNEL(1024, 1)
read_after_write(Params p) {
  float* s = shared<float>();
  s[thread_index()] = p.x[mine()];
  if (!fault) block_barrier();
  p.y[mine()] = s[(thread_index() + 33) % block_threads()];
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
write_after_read(Params p) {
  float* s = shared<float>();
  s[thread_index()] = p.x[mine()];
  block_barrier();
  const float next = s[(thread_index() + 1) % block_threads()];
  if (!fault) block_barrier();
  s[thread_index()] = next;
  block_barrier();
  p.y[mine()] = s[0];
}

// All read one word, which one of them then writes.
template <bool fault>
RNNFAST_KERNEL(1024, 1)
write_after_broadcast(Params p) {
  float* s = shared<float>();
  if (thread_index() == 0) s[0] = 1;
  block_barrier();
  const float all = s[0];
  if (!fault) block_barrier();
  if (thread_index() == 40) s[0] = 2;
  p.y[mine()] = all;
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
global_in_block(Params p) {
  p.y[mine()] = p.x[mine()];
  if (!fault) block_barrier();
  p.x[mine()] = p.y[block_index() * block_threads() + (thread_index() + 1) % block_threads()];
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
blocks_write_one(Params p) {
  p.y[fault ? thread_index() : mine()] = 1;
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
block_writes_what_others_read(Params p) {
  p.y[mine()] = p.x[0] + p.x[1];
  if (fault && mine() == 70) p.x[0] = 2;
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
lanes(Params p) {
  float* s = shared<float>();
  const int first = thread_index() & ~(kWarp - 1), lane = thread_index() & (kWarp - 1);
  for (int i = 0; i < 3; ++i) {
    s[thread_index()] = p.x[mine()];
    warp_sync();
    p.y[mine()] = s[first + (lane ^ 5)];
    if (!fault) warp_sync();
  }
}

template <bool fault>  // halves of a warp
RNNFAST_KERNEL(1024, 1) lanes_of_mask(Params p) {
  float* s = shared<float>();
  const int lane = thread_index() & (kWarp - 1), half = lane / 16;
  s[thread_index()] = p.x[mine()];
  warp_sync(half == 0 ? 0xffffu : 0xffff0000u);
  const int other = fault ? lane ^ 16 : lane ^ 8;
  p.y[mine()] = s[(thread_index() & ~(kWarp - 1)) + other];
}

template <bool fault>  // a shuffle orders nothing
RNNFAST_KERNEL(1024, 1) shuffle_is_no_barrier(Params p) {
  float* s = shared<float>();
  s[thread_index()] = p.x[mine()];
  const float sum = shuffle_xor(kFullMask, 1.0f, 1);
  if (!fault) warp_sync();
  p.y[mine()] = sum + s[thread_index() ^ 1];
}

// Every block reads what all wrote in the step before, as the persistent kernels do.
enum class Grid { right, none, release_relaxed, acquire_relaxed, no_barrier_before, no_barrier_after };
template <Grid kind>
RNNFAST_KERNEL(1024, 1)
grid_steps(Params p) {
  GridBarrier grid(p.words, grid_blocks());
  float *from = p.x, *to = p.y;
  const int n = grid_blocks() * block_threads();
  for (unsigned step = 1; step <= 5; ++step) {
    store<float>(to + mine(), load_l2<float>(from + (mine() + 37) % n) + load_l2<float>(from + (mine() + 100) % n));
    float* other = from;
    from = to, to = other;
    if (kind == Grid::right) grid.sync();
    if (kind == Grid::right || kind == Grid::none) continue;
    const unsigned target = step * static_cast<unsigned>(grid_blocks());
    if (kind != Grid::no_barrier_before) block_barrier();
    if (thread_index() == 0) {
      if (kind == Grid::release_relaxed) {
        add_relaxed(p.words, 1);
      } else {
        add_release(p.words, 1);
      }
      if (kind == Grid::acquire_relaxed) {
        wait_relaxed(p.words, target);
      } else {
        wait_acquire(p.words, target);
      }
    }
    if (kind != Grid::no_barrier_after) block_barrier();
  }
}

// The same barrier from fences and relaxed words.
enum class Fences { both, none_before, none_after };
template <Fences kind>
RNNFAST_KERNEL(1024, 1)
fenced_steps(Params p) {
  float *from = p.x, *to = p.y;
  const int n = grid_blocks() * block_threads();
  for (unsigned step = 1; step <= 4; ++step) {
    to[mine()] = load_l2<float>(from + (mine() + 37) % n);
    float* other = from;
    from = to, to = other;
    block_barrier();
    if (thread_index() == 0) {
      if (kind != Fences::none_before) device_fence();
      add_relaxed(p.words, 1);
      wait_relaxed(p.words, step * static_cast<unsigned>(grid_blocks()));
      if (kind != Fences::none_after) device_fence();
    }
    block_barrier();
  }
}

// Each warp announces its own work; no barrier of the block.
template <bool fault>
RNNFAST_KERNEL(1024, 1)
warps_announce(Params p) {
  float *from = p.x, *to = p.y;
  const int n = grid_blocks() * block_threads();
  const auto warps = static_cast<unsigned>(n / kWarp);
  for (unsigned step = 1; step <= 4; ++step) {
    to[mine()] = load_l2<float>(from + (mine() + 37) % n);
    float* other = from;
    from = to, to = other;
    if (!fault) warp_sync();
    if (thread_index() % kWarp == 0) {
      add_release(p.words, 1);
      wait_acquire(p.words, step * warps);
    }
    warp_sync();
  }
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
producer_and_consumer(Params p) {
  if (block_index() == 0) {
    if (thread_index() == 0) {
      p.y[0] = 5;
      if (fault) {
        store_relaxed(p.words, 1);
      } else {
        store_release(p.words, 1);
      }
      p.y[2] = 6;  // after the release: nobody may read it
    }
  } else if (thread_index() == 0) {
    wait_acquire(p.words, 1);
    p.y[mine()] = p.y[0];
  }
}

template <bool fault>  // what was written after the release
RNNFAST_KERNEL(1024, 1) release_covers_the_past(Params p) {
  if (thread_index() == 0 && block_index() == 0) {
    if (!fault) p.y[0] = 5;
    store_release(p.words, 1);
    if (fault) p.y[0] = 5;
  }
  if (thread_index() == 0 && block_index() == 1) {
    wait_acquire(p.words, 1);
    p.y[1] = p.y[0];
  }
}

template <bool fault>
RNNFAST_KERNEL(1024, 1)
plain_use_of_a_counter(Params p) {
  atomic_add(p.words, 1u);
  if (fault && mine() == 5) p.words[0] = 7;
}

template <bool fault>  // neighbours of 2 bytes in 4 are no race, the same 2 bytes are
RNNFAST_KERNEL(1024, 1) narrow(Params p) {
  auto* s = shared<uint16_t>();
  s[thread_index()] = static_cast<uint16_t>(thread_index());
  if (fault && thread_index() == 3) s[2] = 1;
  block_barrier();
  p.y[mine()] = s[thread_index() ^ 1];
}

template <bool fault>  // the same words read by all blocks, and by halves written anew
RNNFAST_KERNEL(1024, 1) narrow_steps(Params p) {
  GridBarrier grid(p.words, grid_blocks());
  const int n = grid_blocks() * block_threads();
  auto* numbers = reinterpret_cast<uint16_t*>(p.x);
  float sum = 0;
  for (int step = 0; step < 6; ++step) {
    const uint16_t* from = numbers + step % 2 * n;
    for (int i = thread_index(); i < n / 2; i += block_threads()) {
      if (step > 1) sum += load_l2<float>(p.x + n + i);  // nobody writes there
      sum += load_l2<float>(from + 2 * i);
    }
    if (step > 0) numbers[(step + 1) % 2 * n + mine()] = static_cast<uint16_t>(step);
    if (!fault || step != 3) grid.sync();
  }
  p.y[mine()] = sum;
}

enum class Async { right, no_wait, no_commit, wait_for_fewer, no_barrier, overwritten };
template <Async kind>
RNNFAST_KERNEL(1024, 1)
asynchronous(Params p) {
  float* s = shared<float>();
  const int t = thread_index();
  async_copy16(s + 4 * t, p.x + 4 * t);
  if (kind != Async::no_commit) async_commit();
  if (kind == Async::wait_for_fewer) {
    async_wait<1>();
  } else if (kind != Async::no_wait) {
    async_wait<0>();
  }
  if (kind == Async::overwritten) async_copy16(s + 4 * t, p.x + 4 * t);
  if (kind == Async::overwritten) s[4 * t] = 3;
  if (kind != Async::no_barrier) block_barrier();
  p.y[t] = s[kind == Async::no_barrier ? (4 * t + 4) % (4 * block_threads()) : 4 * t];
}

}  // namespace

int main() {
  const emulated::Shape block{1, 96, false, 4096}, blocks{3, 64, false, 4096}, grid{6, 96, true, 4096};
  planted("read after write", read_after_write<false>, read_after_write<true>, block, "race on shared memory");
  planted("write after read", write_after_read<false>, write_after_read<true>, block, "race on shared memory");
  planted("write after broadcast", write_after_broadcast<false>, write_after_broadcast<true>, block, "race on shared");
  planted("global memory in a block", global_in_block<false>, global_in_block<true>, blocks, "race on global memory");
  planted("blocks write one word", blocks_write_one<false>, blocks_write_one<true>, blocks, "race on global memory");
  planted("a block writes what others read", block_writes_what_others_read<false>, block_writes_what_others_read<true>,
          blocks, "race on global memory");
  planted("lanes", lanes<false>, lanes<true>, block, "race on shared memory");
  planted("lanes of a mask", lanes_of_mask<false>, lanes_of_mask<true>, block, "race on shared memory");
  planted("shuffle", shuffle_is_no_barrier<false>, shuffle_is_no_barrier<true>, block, "race on shared memory");
  const auto steps = grid_steps<Grid::right>;
  planted("grid without barrier", steps, grid_steps<Grid::none>, grid, "race on global memory");
  planted("grid without release", steps, grid_steps<Grid::release_relaxed>, grid, "race on global memory");
  planted("grid without acquire", steps, grid_steps<Grid::acquire_relaxed>, grid, "race on global memory");
  planted("grid, threads not gathered", steps, grid_steps<Grid::no_barrier_before>, grid, "race on global memory");
  planted("grid, threads not held", steps, grid_steps<Grid::no_barrier_after>, grid, "race on global memory");
  const auto fences = fenced_steps<Fences::both>;
  planted("fence before missing", fences, fenced_steps<Fences::none_before>, grid, "race on global memory");
  planted("fence after missing", fences, fenced_steps<Fences::none_after>, grid, "race on global memory");
  planted("warps announce", warps_announce<false>, warps_announce<true>, grid, "race on global memory");
  planted("producer", producer_and_consumer<false>, producer_and_consumer<true>, grid, "race on global memory");
  planted("release", release_covers_the_past<false>, release_covers_the_past<true>, grid, "race on global memory");
  planted("counter", plain_use_of_a_counter<false>, plain_use_of_a_counter<true>, grid, "race on global memory");
  planted("narrow", narrow<false>, narrow<true>, block, "race on shared memory");
  planted("narrow steps", narrow_steps<false>, narrow_steps<true>, grid, "race on global memory");
  const auto copies = asynchronous<Async::right>;
  planted("async, no wait", copies, asynchronous<Async::no_wait>, block, "not waited for");
  planted("async, no commit", copies, asynchronous<Async::no_commit>, block, "not waited for");
  planted("async, too few", copies, asynchronous<Async::wait_for_fewer>, block, "not waited for");
  planted("async, no barrier", copies, asynchronous<Async::no_barrier>, block, "race on shared memory");
  planted("async, overwritten", copies, asynchronous<Async::overwritten>, block, "not waited for");
  return emulated::failures > 0;
}
