// How a pass over a layer is dealt to threads.
#pragma once

#include <vector>

#include "rnn.h"

namespace rnnfast {

enum class Split {
  none,        // too little work for a barrier: thread 0 alone
  batch,       // each thread takes its own sequences through all steps; no barrier
  panels,      // each thread takes its own panels of all sequences; a barrier a step
  directions,  // forward: thread 0 takes one direction, thread 1 the other; no barrier
};

struct Plan {
  Split split;
  int threads;  // of the whole call
  int64_t batch, panels;
  bool ragged;

  Plan(const CellShape& cell, int64_t lanes, int64_t hidden, int directions, const Schedule& schedule, double flops,
       int max_threads);
  Part part(const Team& team, int direction) const;
};

// Numbers in W and R of all layers; with `one_hot` without the first W, of which rows take columns.
int64_t weights_of(const RnnConfig&, bool one_hot);

// Of the forward products of all rows of a call, for a plan. The few rows of a single step count as more: it takes as
// long as its weights need to come from L2 or beyond.
double product_flops(const RnnConfig&, const Schedule&, bool one_hot);

// Numbers of a block of rows of the widest input, as a thread's weight gradients pack them; at least a vector a row.
int64_t packed_inputs(const RnnConfig&, bool one_hot, int64_t lanes);

// One thread's memory for a pass; `input_bytes`, of a layer's input weights: room for the input products of a forward
// pass too, in a buffer of at least `reserved` numbers; `unpacked`: and for blocks of weights.
template <class T, class E = T>
class ThreadScratch {
 public:
  ThreadScratch(const Plan& plan, const CellShape& cell, int64_t rows, int64_t input_bytes, bool unpacked = false,
                int64_t reserved = 0);
  Scratch<T, E> view();

 private:
  int64_t chunk_rows_;
  Buffer<T> pre_;
  Buffer<E> weights_;
  Buffer<unsigned char> step_rows_;
  Buffer<const E*> x_rows_;
};

// Of the widest layer's input weights as products take them.
template <class T, class E>
int64_t input_weight_bytes(const RnnConfig& config);

// One thread's part of a call of a single step: in groups of panels, from the first or from the last. Calls that
// alternate find what the one before read last in L2, where weights are somewhat larger than that.
template <class T, class E>
void single_step(const RnnConfig&, const ForwardArgs<T, E>&, const Scratch<T, E>&, Part, bool from_last, Team&);

}  // namespace rnnfast
