// Every cell, once. Kernels, tests and benchmarks are made from this list.
#pragma once

#include "gru.h"
#include "lstm.h"
#include "vanilla.h"

#define RNNFAST_CELLS(X) \
  X(rnn_tanh, RnnTanh)   \
  X(rnn_relu, RnnRelu)   \
  X(lstm, Lstm)          \
  X(gru, Gru)
