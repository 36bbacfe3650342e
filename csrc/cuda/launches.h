// Which of the three recurrences a call takes, and its grid: docs/cuda.md says why.
#pragma once

#include "memory.h"
#include "params.h"

namespace rnnfast::cuda {

enum class Recurrence { automatic, small, persistent, step };

// How a network is to compute: by which recurrence, and whether products multiply bf16.
struct Choice {
  Recurrence wish;
  bool bf16;
};

// What is decided before memory is taken; `kind` is never automatic.
struct LaunchPlan {
  Recurrence kind;
  bool bf16;
  int size;  // of the persistent kernels in float: index into kLaneWeights
  int blocks;
  size_t shared_bytes;
  GridParams grid;
};

// A launch that could not be resident as a whole is never planned; a wish that cannot be met becomes `step`.
LaunchPlan plan_forward(const CellKernels&, int64_t hidden, int64_t batch, Choice);
LaunchPlan plan_backward(const CellKernels&, int64_t hidden, int64_t batch, Choice);

// The whole recurrence of one layer in one direction. f.r is R as the caller has it.
// `active` is that of the schedule, on the host, or null where all sequences are as long.
void run_forward(const CellKernels&, const LaunchPlan&, const ForwardParams& f, const Context&, const int32_t* active);
void run_backward(const CellKernels&, const LaunchPlan&, const BackwardParams& b, const Context&,
                  const int32_t* active);

const char* recurrence_name(Recurrence);

}  // namespace rnnfast::cuda
