// What this machine can do at best, measured: the scale that `rnnfast bench` holds its times against. All of them take
// about `seconds` and return the best of many short rounds, at least eight, in which the threads begin together.
#pragma once

#include <cstdint>

namespace rnnfast {

// Floating-point operations a second of all threads: float32 multiply-adds, or dot products of bfloat16 pairs (0 where
// the processor has none or another instruction set is in use).
double peak_float32(int threads, double seconds);
double peak_bfloat16(int threads, double seconds);

// Bytes a second of all threads, each reading `bytes` of its own over and over; `bytes` is rounded up to 2 KiB.
double read_bandwidth(int64_t bytes, int threads, double seconds);

// Seconds that two threads need to tell each other that they have arrived; 0 where there is one thread only.
double exchange_time(double seconds);

}  // namespace rnnfast
