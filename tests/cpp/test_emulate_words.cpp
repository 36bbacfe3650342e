// The words of device.h give what a GPU gives: values of warp words, mma by its documented layout against
// plain loops, arithmetic of cuda::Vec against the C library, memory that nobody wrote, and the order of the
// schedules.
#include <algorithm>
#include <cmath>

#include "cells/registry.h"
#include "emulated.h"

namespace {

using namespace rnnfast::cuda;
using emulated::check;
using emulated::kSize;
using emulated::Params;

constexpr int kThreads = 64;

RNNFAST_KERNEL(1024, 1) warp_words(Params p) {
  const int t = thread_index(), lane = t % kWarp;
  float* out = p.y + 8 * t;
  store(out, shuffle(kFullMask, static_cast<float>(t), (lane + 3) % kWarp));
  store(out + 1, shuffle_xor(kFullMask, static_cast<float>(t), 7));
  store(out + 2, shuffle(kFullMask, static_cast<float>(t), lane / 4));
  store(out + 3, static_cast<float>(ballot(kFullMask, lane % 3 == 0) & 0xffff));
  store(out + 4, static_cast<float>(warp_any(kFullMask, t == 40)));
  store(out + 5, static_cast<float>(warp_all(kFullMask, t != 40)));
  const uint64_t wide = shuffle(kFullMask, (uint64_t{1} << 40) + static_cast<unsigned>(lane), 9);
  store(out + 6, static_cast<float>(wide == (uint64_t{1} << 40) + 9));
  store(out + 7, lane < 8 ? shuffle_xor(0xffu, static_cast<float>(lane), 1) : -1.0f);
}

void warps() {
  emulated::Arrays a;
  check(emulated::run(warp_words, {1, kThreads, false, 0}, a.params).empty(), "warp words are reported");
  for (int t = 0; t < kThreads; ++t) {
    const int lane = t % kWarp, first = t - lane;
    unsigned votes = 0;
    for (int i = 0; i < kWarp; ++i) votes |= static_cast<unsigned>(i % 3 == 0) << i;
    const int want[8] = {first + (lane + 3) % kWarp,
                         t ^ 7,
                         first + lane / 4,
                         static_cast<int>(votes & 0xffff),
                         first == kWarp,
                         first != kWarp,
                         1,
                         lane < 8 ? lane ^ 1 : -1};
    for (int i = 0; i < 8; ++i)
      check(a.params.y[8 * t + i] == static_cast<float>(want[i]),
            "warp word " + std::to_string(i) + " of thread " + std::to_string(t));
  }
}

RNNFAST_DEVICE uint32_t pair(const float* low, const float* high) {
  return uint32_t{to_bf16(load<float>(high)).bits} << 16 | to_bf16(load<float>(low)).bits;
}

// d (16 x 8, row-major) = a (16 x 16, row-major) b (8 x 16: column by column), both bf16 of x.
RNNFAST_KERNEL(1024, 1) matrix_product(Params p) {
  const int g = thread_index() / 4, q = thread_index() % 4;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) {
    const float* from = p.x + 16 * (g + 8 * (i % 2)) + 2 * q + 8 * (i / 2);
    a[i] = pair(from, from + 1);
  }
  for (int i = 0; i < 2; ++i) b[i] = pair(p.x + 256 + 16 * g + 2 * q + 8 * i, p.x + 256 + 16 * g + 2 * q + 8 * i + 1);
  float d[4] = {0.5f, 0.5f, 0.5f, 0.5f};
  mma_bf16(d, a, b);
  for (int i = 0; i < 4; ++i) store(p.y + 8 * (g + 8 * (i / 2)) + 2 * q + i % 2, d[i]);
}

void matrices() {
  emulated::Arrays a;
  for (int i = 0; i < 384; ++i) a.params.x[i] = static_cast<float>((i * 37) % 61 - 30) / 16;  // exact in bf16
  check(emulated::run(matrix_product, {1, kWarp, false, 0}, a.params).empty(), "mma is reported");
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n) {
      double sum = 0.5;
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a.params.x[16 * m + k]) * a.params.x[256 + 16 * n + k];
      check(a.params.y[8 * m + n] == static_cast<float>(sum),
            "mma, row " + std::to_string(m) + " column " + std::to_string(n));
    }
}

RNNFAST_KERNEL(1024, 1) atomics(Params p) {
  atomic_add(p.words, 2u);
  atomic_add(reinterpret_cast<int*>(p.words + 1), -3);
  atomic_add(reinterpret_cast<unsigned long long*>(p.words + 2), 1ull << 33);
}

void atomic_words() {
  emulated::Arrays a;
  check(emulated::run(atomics, {1, kThreads, false, 0}, a.params).empty(), "atomics are reported");
  uint64_t wide;
  std::memcpy(&wide, a.params.words + 2, sizeof wide);
  check(a.params.words[0] == 2 * kThreads, "atomic_add");
  check(a.params.words[1] == static_cast<unsigned>(-3 * kThreads), "atomic_add of negative numbers");
  check(wide == uint64_t{kThreads} << 33, "atomic_add of 64 bits");
}

RNNFAST_KERNEL(1024, 1) unwritten(Params p) {
  const float* s = shared<float>();
  store(p.y + thread_index(), load<float>(s + thread_index()));
  store(p.x + thread_index(), 1.0f);
}
RNNFAST_KERNEL(1024, 1) fill_shared(Params) { store(shared<float>() + thread_index(), 1.0f); }

void poison() {
  emulated::Arrays a;
  check(std::isnan(a.params.y[kSize - 1]), "new device memory is no NaN");
  emulated::run(fill_shared, {1, kThreads, false, 4096}, a.params);
  emulated::run(unwritten, {1, kThreads, false, 4096}, a.params);
  check(std::isnan(a.params.y[0]) && std::isnan(a.params.y[kThreads - 1]),
        "shared memory keeps what a launch before wrote");
}

RNNFAST_KERNEL(1024, 1) copies(Params p) {
  float* s = shared<float>();
  const int t = thread_index();
  async_copy16(s + 4 * t, p.x + 4 * t, 8);
  async_commit();
  async_copy16(s + 1024 + 4 * t, p.x + 4 * t);
  async_commit();
  store(p.y + 3 * t, static_cast<float>(t));
  async_wait<1>();
  store(p.y + 3 * t + 1, load<float>(s + 4 * t + 1) + load<float>(s + 4 * t + 2));
  async_wait<0>();
  store(p.y + 3 * t + 2, load<float>(s + 1024 + 4 * t + 3));
}

void asynchronous() {
  emulated::Arrays a;
  for (int i = 0; i < kSize; ++i) a.params.x[i] = static_cast<float>(i);
  check(emulated::run(copies, {1, kThreads, false, 8192}, a.params).empty(), "copies are reported");
  for (int t = 0; t < kThreads; ++t)
    check(a.params.y[3 * t + 1] == static_cast<float>(4 * t + 1) &&
              a.params.y[3 * t + 2] == static_cast<float>(4 * t + 3),
          "copies of thread " + std::to_string(t));
}

// Each thread takes a number at the beginning and one after a barrier.
RNNFAST_KERNEL(1024, 1) tickets(Params p) {
  const int me = block_index() * block_threads() + thread_index();
  store(p.y + me, static_cast<float>(atomic_add(p.words, 1u)));
  block_barrier();
  store(p.y + 1024 + me, static_cast<float>(atomic_add(p.words + 1, 1u)));
}

std::vector<float> order(const char* schedule, uint64_t seed) {
  emulated::Arrays a;
  emulated::emulate::set_schedule(schedule, seed);
  check(emulated::run(tickets, {4, kThreads, true, 0}, a.params).empty(), "tickets are reported");
  emulated::emulate::set_schedule("in_order", 0);
  std::vector<float> all(a.params.y, a.params.y + 4 * kThreads);
  all.insert(all.end(), a.params.y + 1024, a.params.y + 1024 + 4 * kThreads);
  return all;
}

void schedules() {
  const int n = 4 * kThreads;
  const std::vector<float> first = order("in_order", 0), last = order("reverse", 0);
  for (int i = 0; i < n; ++i)
    check(first[static_cast<size_t>(i)] == static_cast<float>(i) &&
              last[static_cast<size_t>(i)] == static_cast<float>(n - 1 - i),
          "in order, reverse");
  const std::vector<float> one = order("random", 1), again = order("random", 1), two = order("random", 2);
  check(one == again, "a seed gives one order");
  check(one != two && one != first, "seeds give the same order");
  const std::vector<float> block = order("block_ahead", 3);
  int ahead = -1;  // the block whose threads come first, before and after the barrier
  for (int b = 0; b < 4; ++b)
    if (block[static_cast<size_t>(b * kThreads)] == 0) ahead = b;
  check(ahead >= 0 && *std::max_element(block.begin() + n + ahead * kThreads,
                                        block.begin() + n + (ahead + 1) * kThreads) == kThreads - 1,
        "the block ahead is not ahead");
  const std::vector<float> thread = order("thread_ahead", 3);
  const auto leader = std::find(thread.begin(), thread.begin() + n, 0.0f) - thread.begin();
  int before = 0;  // of its block, after the barrier
  for (int i = 0; i < kThreads; ++i) {
    const size_t other = static_cast<size_t>(n + leader / kThreads * kThreads + i);
    before += thread[other] < thread[static_cast<size_t>(n + leader)];
  }
  check(before == 0, "the thread ahead is not ahead");
}

void arithmetic() {
  for (int n = -160; n <= 140; ++n)
    for (const float x : {1.0f, 1.9999999f, 1.4142135f, -1.25f, 1.0000001f}) {
      const float got = ldexp(Vec(x), Vec(static_cast<float>(n))).v;
      check(got == std::ldexp(x, n), "ldexp of " + std::to_string(x) + " by " + std::to_string(n));
    }
  for (int i = -4000; i <= 4000; ++i) {
    const float x = static_cast<float>(i) * 0.013f;
    const auto close = [&](float got, double want, const char* what) {
      check(std::abs(got - want) <= 2.5e-7 * std::abs(want) + 1e-37, what + (" of " + std::to_string(x)));
    };
    close(rnnfast::tanh(Vec(x)).v, std::tanh(static_cast<double>(x)), "tanh");
    close(rnnfast::sigmoid(Vec(x)).v, 1 / (1 + std::exp(-static_cast<double>(x))), "sigmoid");
  }
  const float nan = std::nanf("");
  check(max(Vec(0), Vec(nan)).v != max(Vec(0), Vec(nan)).v, "a NaN passes max");
  check(to_bf16(1.00390625f).bits == 0x3f80 && to_bf16(1.01171875f).bits == 0x3f82, "bf16 rounds ties to even");
  check(std::isnan(to_float(to_bf16(nan))) && std::isinf(to_float(to_bf16(3.4e38f))),
        "bf16 of NaN and beyond its range");
}

void host() {
  check(device_count() == 1 && why_no_device().empty() && device_info(0).cooperative, "device");
  Stream stream = create_stream();
  Event begin = create_event(true), end = create_event(true);
  emulated::Arrays a;
  record(begin, stream);
  fill_async(a.params.y, 0, 16, stream);
  copy_async(a.params.y, a.params.x, 8, stream);
  record(end, stream);
  wait(stream, end);
  synchronize(end);
  synchronize(stream);
  check(a.params.y[1] == 1 && a.params.y[2] == 0 && milliseconds(begin, end) >= 0, "streams");
  destroy_event(begin);
  destroy_event(end);
  destroy_stream(stream);
}

}  // namespace

int main() {
  warps();
  matrices();
  atomic_words();
  poison();
  asynchronous();
  schedules();
  arithmetic();
  host();
  return emulated::failures > 0;
}
