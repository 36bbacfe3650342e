#include "rnn.h"

namespace rnnfast {

namespace {

template <class Cell>
CellShape shape_of() {
  CellShape shape{Cell::pre_activations, Cell::states, Cell::saved, 0, {}, {}};
  const auto run_of = [](unsigned mask) {
    Run run{__builtin_ctz(mask), __builtin_popcount(mask), {}};
    for (int n = 0; n < run.count; ++n) run.gate[n] = static_cast<int8_t>(Cell::gate_of(run.first + n));
    return run;
  };
  shape.input = run_of(Cell::input_mask);
  shape.recurrent = run_of(Cell::recurrent_mask);
  shape.gates = shape.recurrent.count;
  return shape;
}

}  // namespace

CellShape cell_shape(CellId cell) {
  switch (cell) {
#define RNNFAST_SHAPE(name, Type) \
  case cell_##name:               \
    return shape_of<Type>();
    RNNFAST_CELLS(RNNFAST_SHAPE)
#undef RNNFAST_SHAPE
    case cell_count:
      break;
  }
  return {};
}

const char* cell_name(CellId cell) {
#define RNNFAST_NAME(name, Type) #name,
  static const char* const names[] = {RNNFAST_CELLS(RNNFAST_NAME) nullptr};
#undef RNNFAST_NAME
  return names[cell];
}

}  // namespace rnnfast
