// Recurrent networks written down once more, as plainly as can be: double, one number at a time, no shared code with
// the kernels. What tests/cpp compares them with where there is no Python.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "core/rnn.h"

namespace naive {

using Numbers = std::vector<double>;

// One network and one batch. Parameters of (layer, direction): w_ih (G H, I), w_hh (G H, H), b_ih (G H), b_hh (G H).
struct Problem {
  rnnfast::RnnConfig config{};
  int64_t steps = 0, batch = 0;
  std::vector<int32_t> lengths;
  std::vector<uint8_t> reset;           // (T, B)
  std::vector<Numbers> parameters;      // (layer * D + direction) * 4 + which
  Numbers x;                            // (T, B, I)
  Numbers state0[rnnfast::kMaxStates];  // (layers * D, B, H)
};

struct Result {
  Numbers y;                           // (T, B, D * H)
  Numbers state[rnnfast::kMaxStates];  // (layers * D, B, H)
};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// One unit's new states from its input and recurrent pre-activations, `blocks` of them H apart.
inline void step_unit(rnnfast::CellId cell, const double* in, const double* re, int64_t H, double* h, double* c) {
  switch (cell) {
    case rnnfast::cell_rnn_tanh:
      *h = std::tanh(in[0] + re[0]);
      break;
    case rnnfast::cell_rnn_relu:
      *h = in[0] + re[0] > 0 ? in[0] + re[0] : 0;
      break;
    case rnnfast::cell_lstm: {
      const double i = sigmoid(in[0] + re[0]), f = sigmoid(in[H] + re[H]);
      const double g = std::tanh(in[2 * H] + re[2 * H]), o = sigmoid(in[3 * H] + re[3 * H]);
      *c = f * *c + i * g;
      *h = o * std::tanh(*c);
      break;
    }
    case rnnfast::cell_gru: {
      const double r = sigmoid(in[0] + re[0]), z = sigmoid(in[H] + re[H]);
      *h = (1 - z) * std::tanh(in[2 * H] + r * re[2 * H]) + z * *h;
      break;
    }
    default:
      std::abort();
  }
}

// matrix (rows, n) times v, plus bias
inline Numbers product(const Numbers& matrix, const double* v, int64_t n, const Numbers& bias) {
  Numbers out = bias;
  for (size_t row = 0; row < out.size(); ++row)
    for (int64_t k = 0; k < n; ++k) out[row] += matrix[row * static_cast<size_t>(n) + static_cast<size_t>(k)] * v[k];
  return out;
}

inline Result forward(const Problem& p) {
  const int64_t H = p.config.hidden, D = p.config.directions, T = p.steps, B = p.batch;
  const int states = rnnfast::cell_shape(p.config.cell).states;
  Result result;
  for (int k = 0; k < states; ++k) result.state[k] = p.state0[k];
  Numbers in = p.x;
  for (int layer = 0; layer < p.config.layers; ++layer) {
    const int64_t I = p.config.input_of(layer);
    result.y.assign(static_cast<size_t>(T * B * D * H), 0);
    for (int64_t d = 0; d < D; ++d) {
      const Numbers* parameter = &p.parameters[static_cast<size_t>((layer * D + d) * 4)];
      for (int64_t b = 0; b < B; ++b) {
        double* h = &result.state[0][static_cast<size_t>(((layer * D + d) * B + b) * H)];
        double* c = states > 1 ? &result.state[1][static_cast<size_t>(((layer * D + d) * B + b) * H)] : h;
        const int64_t length = p.lengths[static_cast<size_t>(b)];
        for (int64_t s = 0; s < length; ++s) {
          const int64_t t = d == 0 ? s : length - 1 - s;
          const int64_t border = d == 0 ? t : t + 1;  // reset[border] lies between this step and the one before it
          if (border < length && p.reset[static_cast<size_t>(border * B + b)])
            for (int64_t u = 0; u < H; ++u) h[u] = c[u] = 0;
          const Numbers ax = product(parameter[0], &in[static_cast<size_t>((t * B + b) * I)], I, parameter[2]);
          const Numbers ah = product(parameter[1], h, H, parameter[3]);
          for (int64_t u = 0; u < H; ++u) {
            step_unit(p.config.cell, &ax[static_cast<size_t>(u)], &ah[static_cast<size_t>(u)], H, &h[u], &c[u]);
            result.y[static_cast<size_t>(((t * B + b) * D + d) * H + u)] = h[u];
          }
        }
      }
    }
    in = result.y;
  }
  return result;
}

}  // namespace naive
