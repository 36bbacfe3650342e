// The barrier of a cooperative grid, or of some of its blocks, made of words of device.h, so that the emulator sees it
// as it is: the counter of all arrivals only grows, one thread a block adds to it and waits for it.
//
// A block that arrives makes one atomic addition nobody waits for and then reads one word until the last one has come:
// the least traffic, and two crossings to L2 of latency. What a block does between arrive and wait is for free.
#pragma once

#include "device.h"

namespace rnnfast::cuda {

class GridBarrier {
 public:
  // counter: one word of global memory for these blocks alone, zero when the launch begins; blocks: how many they are.
  RNNFAST_DEVICE GridBarrier(unsigned* counter, int blocks) : counter_(counter), blocks_(blocks), target_(0) {}

  RNNFAST_DEVICE void arrive(Site site = Site::here()) {
    if (left_out(site)) return;
    block_barrier();
    target_ += static_cast<unsigned>(blocks_);
    if (thread_index() == 0) add_release(counter_, 1);
  }
  RNNFAST_DEVICE void wait(Site site = Site::here()) {
    if (left_out(site)) return;
    if (thread_index() == 0) wait_acquire(counter_, target_);
    block_barrier();
  }
  RNNFAST_DEVICE void sync(Site site = Site::here()) {
    arrive(site);
    wait(site);
  }

 private:
  unsigned* counter_;
  int blocks_;
  unsigned target_;
};

}  // namespace rnnfast::cuda
