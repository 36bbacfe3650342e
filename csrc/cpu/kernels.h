// What a kernel object offers: one table of plain functions per instruction set and element type.
//
// Everything here is plain data without inline functions, because each isa_*.cpp is compiled for another processor and
// the linker keeps one copy of an inline function: it could be the one that this processor cannot run.
//
// Words. A *lane* is one element of a vector register; L lanes make one. A *panel* is L neighbouring units of a layer,
// P pre-activations each; H units take ceil(H / L) panels, the last one padded with zeros. *Panel order* is
// [panel][pre-activation][lane]. A *row* is one (time, sequence) pair; core/schedule.h numbers them.
//
// T is the type of parameters, states and gradients, E that of what products multiply: T itself, or pairs of bf16. Rows
// and weights of *operands* are counted in elements E, each of which holds `depth` numbers with neighbouring k.
#pragma once

#include <cstdint>

#include "../cells/registry.h"
#include "parallel.h"

namespace rnnfast {

enum CellId : int {
#define RNNFAST_CELL_ID(name, Type) cell_##name,
  RNNFAST_CELLS(RNNFAST_CELL_ID)
#undef RNNFAST_CELL_ID
      cell_count
};

// Two bf16 numbers, the one with the lower k in the lower half.
struct Bf16x2 {
  uint32_t bits;
};

constexpr int kMaxStates = 2;  // state 0 is h, which recurs
constexpr int kMaxPre = 4;     // pre-activations of a unit
constexpr int kMaxTileRows = 8;
constexpr int kMaxTilePanels = 4;
constexpr int64_t kSumBlock = 256;  // sums over rows restart here; blocks are added in order

// Rows of a panel in arrays that hold one panel's rows side by side, as the weight gradients read them: the rows, one
// of zeros, and an odd number of them, because panels a power of two apart would fall on the same few sets of a cache.
constexpr int64_t panel_rows_of(int64_t rows) { return (rows + 1) | 1; }

// Rows of a matrix: index[r] where the rows lie anywhere, else base + r * stride.
template <class T>
struct Rows {
  T* base;
  int64_t stride;
  T* const* index;
};

// A run of a unit's pre-activations, and which block of H rows of PyTorch's weight matrix feeds each of them.
struct Run {
  int first, count;
  int8_t gate[kMaxPre];
};

// Weights as the caller has them, (gates * H, width), for a product that packs them block by block.
template <class T>
struct UnpackedWeights {
  const T* weight;
  int64_t hidden, width;
  Run run;
};

// Which row is which step of which sequence; the arrays belong to core/schedule.h.
struct ScheduleView {
  int64_t steps, batch, rows;
  const int64_t* offset;  // [steps + 1] first row of each time
  const int32_t* active;  // [steps + 1] sequences that have this time; active[steps] = 0
  const int32_t* length;  // [batch] longest first
  const uint8_t* cut;     // [rows] nothing passes between this time and the one before it; or null
};

// A share of the sorted sequences: first, first + stride, ... below end.
struct Share {
  int64_t first, stride, end;
};

// One layer in one direction, forward.
template <class T, class E = T>
struct ForwardArgs {
  int64_t input, hidden;
  ScheduleView schedule;
  bool reverse;
  const E *w, *r;                     // [panel][I][inputs' run][L], [panel][H][recurrent run][L]
  const T* bias;                      // [panel][P][L]
  UnpackedWeights<T> w_rows, r_rows;  // of a call of one step: what stands in for w or r where they are null
  Rows<const E> x;                    // row -> [I]; or, where x is one-hot,
  const int32_t* token;               // [rows] which of the I columns [panel][I][inputs' run][L] it picks; else null
  const T* columns;
  const T* state0[kMaxStates];  // [batch][padded H]
  bool from_zeros;              // state 0 is zeros: the first step has no recurrent product
  Rows<T> y;                    // row -> [H], state 0 of every step
  const E* h0;                  // where E is not T: state 0 as an operand, [batch][h_stride],
  E* h;                         // and the same of every step, [rows][h_stride]
  int64_t h_stride;
  T* state[kMaxStates];  // k >= 1: [rows][padded H] if keep_states; else [batch][padded H], updated in place
  bool keep_states;
  T* saved;            // [panel][panel rows][saved][L] or null
  int64_t panel_rows;  // of saved and da: see panel_rows_of
  const T* zeros;      // [panels][P][L]
  const E* zero_row;   // the same as operands
};

template <class T, class E = T>
struct BackwardArgs {
  int64_t hidden;
  ScheduleView schedule;
  bool reverse;
  const E* r;                   // [panel][panel'][recurrent run][L'][L]: R as the gradient of h needs it
  UnpackedWeights<T> r_rows;    // of a call of one step: what stands in for r where it is null
  const T* state0[kMaxStates];  // [batch][padded H]
  Rows<const T> y;              // row -> [H]
  const T* state[kMaxStates];   // k >= 1: [rows][padded H]
  const T* saved;               // [panel][panel rows][saved][L]
  Rows<const T> dy;             // row -> [H]; neither base nor index: zeros
  T* dstate[kMaxStates];        // [batch][padded H]: in, gradient of the last states; out, of the first
  E* da;                        // [panel][panel rows][P][L], row `rows` zeros; may be `saved` where that is as large
  int64_t panel_rows;
  bool dstate0;    // whether the gradient of the first states is wanted
  const T* zeros;  // [panels][P][L]
};

// One thread's scratch for a pass over a layer; memory of its own, so that threads never write one cache line.
template <class T, class E = T>
struct Scratch {
  T* pre;              // [chunk rows][panels of the span][P][L]
  int64_t chunk_rows;  // rows whose input product is taken at once
  void* step_rows;     // step_row_bytes for each sequence of the share
  const E** x_rows;    // [chunk_rows], or where weights come unpacked, one for each sequence of the share
  E* weights;          // [kUnpackedBytes] where weights come unpacked; else null
};
constexpr int64_t kUnpackedBytes = 32 * 1024;  // of weights that are packed, used and forgotten: they stay in L1

// The part of a pass that one thread does: these sequences, these panels; with a barrier a step where the panels of
// one sequence are spread over threads.
struct Part {
  Share share;
  Span panels;
  bool barrier;
};

// out[row][panel][n][lane] = init[row][panel][n][lane] + sum over k of a[row][k] * b[panel][k][n][lane]
template <class T, class E = T>
struct GemmArgs {
  int n;                                 // vectors of a panel, 1 .. kMaxPre
  int64_t runs, run_length, run_stride;  // k walks `runs` runs of a row of a
  Rows<const E> a;
  const E* b;
  Rows<const T> init;
  int64_t init_panel;  // from a panel of init to the next
  Rows<T> out;
  int64_t out_panel;
  int64_t width;   // valid elements of a row where n == 1: neither init nor out is touched behind them; else -1
  int64_t others;  // bytes of weights that other products read before these are read again
};

// gradient[panel][i][n][lane] = sum over rows of x[row][i] * da(row, panel)[first + n][lane]
template <class T, class E = T>
struct WeightGradientArgs {
  int64_t rows, inputs;
  Rows<const E> x;  // row -> [inputs]; of pairs: two rows as pair_rows makes one of them
  const E* da;      // (row, panel) -> [P][L] at row * da_row + panel * da_panel
  int64_t da_row, da_panel;
  int first, n;
  T* gradient;  // [panels][inputs][n][L], assigned or, with `add`, added to
  bool add;
  E* x_packed;  // this thread's [kSumBlock][inputs]
  E* packed;    // this thread's [kMaxTilePanels][kSumBlock][n][L] where rows lie far apart or in pairs; or null
};

// Element (k, panel, n, lane) lies at k * k_stride + panel * panel_stride + n * L + lane.
template <class T>
struct PackedGradient {
  const T* data;
  int64_t k_stride, panel_stride;
  bool assign;  // takes the place of what is there
};

enum class MathFunction { exp, tanh, sigmoid };

struct DropoutKey {
  uint64_t seed, step;
  uint32_t stream;
  uint32_t threshold;  // a word at or above it keeps the element
};

template <class T, class E = T>
struct Kernels {
  const char* isa;
  int lanes;
  int depth;     // numbers in an element E of a row of operands
  int row_pair;  // rows that pair_rows makes one of
  int64_t step_row_bytes;

  struct Cell {
    void (*forward)(const ForwardArgs<T, E>&, const Scratch<T, E>&, const Part&, Team&);
    void (*backward)(const BackwardArgs<T, E>&, const Scratch<T, E>&, const Part&, Team&);
  } cell[cell_count];

  // Where E is not T: numbers in[0 .. n) as operands, and zeros up to `width` elements;
  void (*to_operands)(const T* in, int64_t n, E* out, int64_t width);
  // rows span.begin .. span.end of operands into [pair of rows][stride], the numbers of both in one element
  void (*pair_rows)(Rows<const E> in, int64_t width, E* out, int64_t stride, Span rows);

  // Weights (gates * H, width) into [panel][width][run][L]
  void (*pack)(const T* weight, int64_t hidden, int64_t width, const Run&, E* packed, Span panels);
  // Columns ids[0 .. k), or all k, the same way; of the values that operands have
  void (*pack_columns)(const T* weight, int64_t hidden, int64_t width, const int32_t* ids, int64_t k, const Run&,
                       T* packed, Span panels);
  // The same weights as the gradient of their input needs them: [width panel][panel][run][L][L of the width]
  void (*pack_transposed)(const T* weight, int64_t hidden, int64_t width, const Run&, E* packed, Span width_panels);
  // bias[panel][p][lane]: b_ih of the inputs' run plus b_hh of the recurrent one; either may be null
  void (*pack_bias)(const T* b_ih, const Run&, const T* b_hh, const Run&, int64_t hidden, int pre_activations, T* bias,
                    Span panels);

  void (*gemm)(const GemmArgs<T, E>&, Span rows, Span panels, Team&);
  // The same with b as pack_transposed makes it of these weights, but only blocks of it, in `scratch` [kUnpackedBytes]
  void (*gemm_transposed_unpacked)(const GemmArgs<T, E>&, const UnpackedWeights<T>&, E* scratch, Span rows, Span panels,
                                   Team&);
  void (*weight_gradient)(const WeightGradientArgs<T, E>&, Span panels, Span inputs, Team&);
  // out[panel][p][lane] = sum of the rows order[0 .. count) of da, or of rows 0 .. count where order is null; da as
  // WeightGradientArgs has it
  void (*sum_rows)(const E* da, int64_t da_row, int64_t da_panel, const int32_t* order, int64_t count,
                   int pre_activations, bool add, T* out, Span panels);
  // Columns ids[0 .. k), or all, of d_weight (gates * H, width) += gradient, or = where it says so
  void (*add_gradient)(const PackedGradient<T>&, int64_t hidden, int64_t width, const int32_t* ids, int64_t k,
                       const Run&, T* d_weight, Span panels);
  // d_weight (gates * H, inputs) = or, with `add`, += sum over rows of da[row][first + n] x[row], for few rows (not
  // pairs of them): nothing is packed
  void (*add_products)(const WeightGradientArgs<T, E>&, int64_t hidden, const Run&, T* d_weight, Span panels);
  // out[i] = in[i] * mask / (1 - p) for units 0 .. n of one row
  void (*dropout)(const T* in, T* out, int64_t n, const DropoutKey&, int64_t time, uint32_t row, T scale);
  // out = exp, tanh or sigmoid of in: what the tests of cells/math.h call
  void (*math)(MathFunction, const T* in, T* out, int64_t n);

  // What core/limits.h times, see cpu/limits.h.
  int64_t (*fma_loop)(int64_t rounds, E x, T* sink);
  void (*read_loop)(const T* data, int64_t n, int64_t times, T* sink);
};

// Bytes of the cache that one core has to itself.
int64_t core_cache_bytes();

// The table of the instruction set in use: chosen once by what the processor has and RNNFAST_ISA allows.
template <class T, class E = T>
const Kernels<T, E>& kernels();

}  // namespace rnnfast
