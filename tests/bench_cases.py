"""Small cases of `rnnfast bench`, of every kind, and a machine with round numbers."""

from rnnfast.bench import cases
from rnnfast.bench.cases import CELLS, Layer, Model
from rnnfast.bench.limits import Machine

SMALL = [
    *(Layer(cell, mode, 5, 3, 7, 17) for cell in CELLS for mode in cases.MODES),
    *(Layer(cell, mode, 5, 3, 7, 17, layers=2, bidirectional=True) for cell in CELLS for mode in cases.MODES),
    *(Layer(cell, mode, 5, 3, 7, 17, ragged=True) for cell in CELLS for mode in cases.MODES),
    *(Layer(cell, "step", 1, 1, 7, 7) for cell in CELLS),
    Model("step", T=6, B=3, V=11, H=8),
    Model("step", T=6, B=3, V=11, H=8, embedding=5),
    Model("sample", T=12, B=1, V=11, H=8),
    Model("sample", T=12, B=3, V=11, H=8),
]
# Round numbers: 100 flop/s and 10 bytes/s a thread, whatever the size.
MACHINE = Machine({1: 100.0, 2: 200.0}, {}, {n: {8192: 10.0 * n, 2**28: 10.0 * n} for n in (1, 2)})
