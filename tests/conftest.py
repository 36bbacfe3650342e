"""What all tests share: hypothesis without randomness, the torch fixture, and the markers."""

import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported: the oracle's matrices are small
os.environ.setdefault("RNNFAST_NUM_THREADS", "4")  # so that as many share few rows, also on fewer processors

import hypothesis
import pytest

EXAMPLES = int(os.environ.get("RNNFAST_TEST_EXAMPLES", "60"))  # the reruns for other ISAs take fewer

hypothesis.settings.register_profile(
    "rnnfast",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=EXAMPLES,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("rnnfast")


def pytest_configure(config):
    config.addinivalue_line("markers", "isa: correctness and exactness of the kernels, run again for every ISA")
    config.addinivalue_line("markers", "large: of those, what runs again at length only where the vectors are others")
    config.addinivalue_line("markers", "slow: minutes long, only with RNNFAST_SLOW=1 (make test-all)")
    config.addinivalue_line("markers", "gpu: what an emulated GPU does not have, only with kernels built for one")


def pytest_collection_modifyitems(config, items):
    from rnnfast import cuda

    left_out = set() if os.environ.get("RNNFAST_SLOW") == "1" else {"slow"}
    if cuda._cuda is None or cuda._cuda.emulated:
        left_out.add("gpu")
    deselected = [item for item in items if any(item.get_closest_marker(name) for name in left_out)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_reaches_us():
    """Also where the tests run in the background of a shell, which makes them ignore it."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.fixture(scope="session")
def torch():
    """The torch module. Without it the test is skipped, or fails where RNNFAST_REQUIRE_TORCH=1 asks for it."""
    try:
        import torch
    except ImportError as error:
        if os.environ.get("RNNFAST_REQUIRE_TORCH") == "1":
            pytest.fail(f"RNNFAST_REQUIRE_TORCH=1, but torch cannot be imported: {error}")
        pytest.skip("torch cannot be imported; `make test TORCH=1` installs a CPU build and runs these tests")
    torch.set_num_threads(1)  # two pools of threads that wait for work would slow each other down
    return torch


@pytest.fixture(scope="session")
def sklearn():
    """scikit-learn, which the tests require and the package does not."""
    import sklearn

    return sklearn


@pytest.fixture
def torch_device(torch, monkeypatch):
    """Where torch's tensors are for the GPU's kernels: on it, or where it is emulated on the CPU. From there they are
    copied into the emulated device's memory; what a call makes is in that memory, and a tensor of the CPU as well."""
    from rnnfast import cuda
    from rnnfast.torch import _cores

    torch.manual_seed(4)
    if not cuda._cuda.emulated:
        if not torch.cuda.is_available():
            pytest.skip("torch has no GPU here")
        return torch.device("cuda", torch.cuda.current_device())

    class Emulated(cuda._Torch):
        def __init__(self):
            self._torch, self._device, self.device = torch, torch.device("cpu"), 0

        def now(self):
            return self

        def allocate(self, nbytes):
            made = cuda._cuda.Memory(nbytes, self.stream)
            return made.address, made

        def empty(self, shape):
            return self._view(torch.from_dlpack(cuda.DeviceArray(shape)))

        def _contiguous(self, value):
            return torch.from_dlpack(cuda.to_device(super()._contiguous(value)))

    kind_of = cuda.kind_of
    monkeypatch.setattr(cuda, "kind_of", lambda v: Emulated() if isinstance(v, torch.Tensor) else kind_of(v))
    monkeypatch.setattr(_cores, "on_gpu", lambda tensor: tensor.is_cpu)
    return torch.device("cpu")


@pytest.fixture
def device_calls(monkeypatch):
    """The calls of recurrent layers on the GPU's kernels, as they are made: "forward" and "backward"."""
    from rnnfast._cuda_rnn import DeviceRnn

    made = []

    def seen(name, inner):
        return lambda *args, **named: (made.append(name), inner(*args, **named))[1]

    for name in ("forward", "backward"):
        monkeypatch.setattr(DeviceRnn, name, seen(name, getattr(DeviceRnn, name)))
    return made
