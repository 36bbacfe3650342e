"""How close is close enough: the one table of every numerical tolerance in the tests.

An error is compared with ``factor * eps * scale`` where a scale is known (tests/scales.py: the same sum with absolute
values), and with ``tolerance * max(1, max |expected|)`` otherwise.
"""

import numpy as np

EPS32 = float(np.finfo(np.float32).eps)

# Recurrent layers
ORACLE64 = 1e-12  # float64 kernels against the float64 oracle
TORCH64 = 1e-12  # float64 kernels, or the oracle, against torch in float64
EPS_FACTOR32 = 16  # float32 kernels against the float64 oracle, in eps of the same sum with absolute values, or ...
PEER_FACTOR32 = 2  # ... at most this many times the error of torch (where there is no torch: of plain float32 NumPy)
BF16 = (
    2.0**-6
)  # layers that compute in bf16 against the oracle that rounds the same: where a rounding went the other way
BF16_MEDIAN = 2e-6  # and elsewhere
TINY32 = 2 * float(np.finfo(np.float32).tiny)  # kernels flush what is smaller than a normal number

# Finite differences, float64, fourth order
FD = 1e-6  # of the largest gradient in the array
FD_STEP = {"rnn_tanh": 1e-3, "rnn_relu": 1e-5, "lstm": 1e-3, "gru": 1e-3}  # relu is linear, but only up to its kink
FD_NOISE = 4 * float(np.finfo(np.float64).eps)  # of the loss, over the step: what the difference itself cannot resolve
RELU_MARGIN = 1e-3  # relu cases keep every |pre-activation| above this

# exp, tanh, sigmoid: units in the last place where input and result are normal numbers
MATH_ULP = {"float32": 2, "float64": 4}

# Everything that is not a recurrent layer, against the oracle or torch: relative to max(1, max |expected|)
OPS = {"float32": 32 * EPS32, "float64": 1e-12}
OPTIM = {"float32": 8 * EPS32, "float64": 1e-12}  # after a few steps; the parameters are of order one
CLIP = {"float32": 8 * EPS32, "float64": 1e-12}

# rnnfast.torch in float32 against what torch computes in float64: of max(1, max |expected|), beside PEER_FACTOR32 times
# torch's own error
TORCH32 = 64 * EPS32
