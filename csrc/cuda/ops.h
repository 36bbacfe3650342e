// What a language model needs beside the recurrence: rows of a table, biases, the loss, optimiser steps, norms. Each
// function launches one kernel on the stream; results that the host reads are left in device memory for it to copy.
#pragma once

#include "../cpu/ops_kernels.h"
#include "runtime.h"

namespace rnnfast::cuda {

// y [rows][width] = the rows of the table that the tokens name.
void gather_rows(const float* table, const int32_t* token, int64_t rows, int64_t width, float* y, Stream);

// y [rows][width] += bias [width].
void add_bias(const float* bias, int64_t rows, int64_t width, float* y, Stream);

// CrossEntropyArgs as on the CPU, but for one scale for all rows; dlogits, where wanted, takes the place of the logits.
struct CrossEntropyParams {
  int64_t rows, classes;
  float* logits;
  bool gradient;
  const int32_t* target;  // [rows]; negative: the row counts for nothing
  float scale;
  float *denominator, *target_logit;  // [rows]
};
void cross_entropy(const CrossEntropyParams&, Stream);

void update(UpdateRule rule, const UpdateArgs<float>& args, Stream);

// partial [square_sums(size)]: sums of x[i]^2 that add up to that of all.
int64_t square_sums(int64_t size);
void sum_of_squares(const float* x, int64_t size, double* partial, Stream);

void scale_values(float* x, int64_t size, float factor, Stream);
void clip_values(float* x, int64_t size, float limit, Stream);  // into [-limit, limit]; NaN stays

}  // namespace rnnfast::cuda
