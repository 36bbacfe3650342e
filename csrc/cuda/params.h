// What the recurrence kernels get, by value: plain data that host and device agree on.
//
// G = blocks of H rows in PyTorch's weight matrices, P = pre-activations of the cell. Rows are those of
// core/schedule.h: row offset[t] + j is time t of sorted sequence j. A kernel walks steps s = 0 ..: time s, or in the
// reverse direction length[j] - 1 - s. All arrays lie in device memory.
#pragma once

#include <cstdint>

#include "bf16.h"

namespace rnnfast::cuda {

constexpr int kStates = 2;     // at most; state 0 is h, which recurs
constexpr int kThreads = 256;  // of every block
constexpr int kWarps = kThreads / 32;

struct Sequences {
  int64_t steps, batch, rows;
  const int64_t* offset;  // [steps + 1]; not looked at where `uniform`
  const int32_t* active;  // [steps + 1] sequences that have this step; active[steps] = 0
  const int32_t* length;  // [batch] longest first
  const uint8_t* cut;     // [rows] nothing passes between this time and the one before it; or null
  bool uniform;           // all sequences are as long as the longest
  bool reverse;
};

struct ForwardParams {
  Sequences seq;
  int64_t hidden;
  const float* r;                // [G * H, H]; the small kernel: its transpose
  const float *b_ih, *b_hh;      // [G * H] or null
  const float* x;                // [rows][G * H] products of the inputs; with `token` [I][G * H]
  const int32_t* token;          // [rows] or null
  const float* state0[kStates];  // [B][H] or null: zeros
  float* y;                      // row -> [H] at row * y_stride: state 0
  int64_t y_stride;
  float* state[kStates];  // k >= 1: [rows][H] if keep_states, else [B][H] that move on in place
  bool keep_states;
  float* saved;  // [rows][saved][H] or null
};

struct BackwardParams {
  Sequences seq;
  int64_t hidden;
  const float* r;                // [G * H, H]
  const float* state0[kStates];  // [B][H] or null: zeros
  const float* y;                // row -> [H] at row * y_stride
  int64_t y_stride;
  const float* state[kStates];  // k >= 1: [rows][H]
  const float* saved;           // [rows][saved][H]
  const float* dy;              // row -> [H] at row * y_stride, or null: zeros
  float* carry[kStates];        // [B][H]: in, gradients of the last states; out, of the first
  float *dax, *dah;             // [rows][G * H] gradients of W x + b_ih and of R h + b_hh; may be one array
};

// One step of the kernel `step`: what a product left, and the operand of the next one.
struct StepParams {
  int64_t step;
  const float* product;  // forward [B][G * H] = h R^T of this step; backward [B][H] = da R of the step after
  float* operand;        // forward [B][H]: h for the next step; backward [B][G * H]: da; zeros where a cut lies
};

// How the blocks of `small` and `persistent` share the work: block b has unit group b % unit_groups and the sequences
// b / unit_groups, + batch_groups, ...
struct GridParams {
  int unit_groups, batch_groups;
  int chunk;          // sequences that are in shared memory at a time
  unsigned* arrived;  // [batch_groups][32] blocks that have come to the barrier, zero at first
};

// Where products multiply bf16. Rows are padded with zeros to whole blocks of k; K = H forward, G * H backward.
struct Bf16Params {
  const Bf16* r;  // of `tensor` alone: [G * H][padded K], backward the transpose [H][padded K]
  Bf16* operand;  // `step`: [B][padded K], in the place of StepParams's; `tensor`: [2][B][padded K], s reads half s % 2
                  // and writes the other, backward s + 1
  int padded;
};

struct ForwardLaunch {
  ForwardParams f;
  StepParams step;
  GridParams grid;
  Bf16Params bf16;
};

struct BackwardLaunch {
  BackwardParams b;
  StepParams step;
  GridParams grid;
  Bf16Params bf16;
};

using ForwardKernel = void (*)(ForwardLaunch);
using BackwardKernel = void (*)(BackwardLaunch);

// Kernels of one cell, each instantiated in its own .cu.
constexpr int kPersistentSizes = 3;
constexpr int kLaneWeights[kPersistentSizes] = {8, 16, 32};  // numbers of a row of R in a lane: H <= 32 times as many

// Shared memory of `small`, in floats: of a block, and of each of its sequences.
struct SmallSize {
  int64_t fixed, sequence;
};

// Of the persistent kernels: units of a block; floats of shared memory for each sequence; sequences come in multiples.
struct PersistentShape {
  int units, forward_floats, forward_rows, backward_floats, backward_rows;
};

// `tensor`, which is `persistent` in bf16: units of a block; sequences whose sums it makes at a time; numbers in a
// block of k; and at most how many blocks of k of a row of R a warp has.
constexpr int kTensorUnits = 16, kTensorSequences = 16, kTensorK = 32, kTensorBlocks = 4;

struct CellKernels {
  int gates, states, saved;
  bool split;  // W x and R h have gradients of their own (dax and dah are two arrays)
  ForwardKernel step_forward, small_forward, persistent_forward[kPersistentSizes], tensor_forward;
  BackwardKernel step_backward, small_backward, persistent_backward[kPersistentSizes], tensor_backward;
  PersistentShape shapes[kPersistentSizes];
  SmallSize (*small_forward_size)(int hidden);
  SmallSize (*small_backward_size)(int hidden);
};

const CellKernels& cell_kernels(int cell);  // CellId

}  // namespace rnnfast::cuda
