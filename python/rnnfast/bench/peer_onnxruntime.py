"""onnxruntime: inference, with a model built here from the case's weights. It packs them when the session is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .cases import Arrays, Case, Layer, Model, lengths
from .peers import Runner, first_outputs, named

__all__ = ["runners"]

NAME = "onnxruntime"
OPERATOR = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
BLOCKS = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}  # PyTorch's i f g o -> i o f c; r z n -> z r h
OPSET = 17


def runners(case: Case, params: Arrays, data: Arrays, threads: int) -> list[Runner]:
    if case.dtype != "float32" or (case.mode == "forward+backward" if isinstance(case, Layer) else case.job == "step"):
        return []
    if isinstance(case, Model):
        return [_sampler(case, params, data, threads)]
    if case.mode == "forward" and case.T * case.B == 1:  # it would not take the parameters as they are at that moment
        return []
    return [_stream(case, params, data, threads) if case.mode == "step" else _layer(case, params, data, threads)]


class Graph:
    """An ONNX graph that grows."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def input(self, name: str, shape: tuple[int, ...], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))

    def node(self, operator: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, list(outputs), **attributes))
        return outputs[0]

    def session(self, threads: int) -> Any:
        graph = helper.make_graph(self.nodes, "bench", self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def rnn(
        self,
        cell: str,
        H: int,
        layers: int,
        bidirectional: bool,
        params: Arrays,
        x: str,
        lengths: str,
        states: list[str],
    ) -> tuple[str, list[list[str]]]:
        """Adds the layers on x (T, B, I). Returns y (T, B, D*H), and of each state its names, one a layer, (D, B, H).
        `states`: names of the initial ones of all layers, (L*D, B, H), or none."""
        suffixes = ("", "_reverse") if bidirectional else ("",)
        last: list[list[str]] = [[] for _ in range(2 if cell == "lstm" else 1)]
        first = [self._split(state, layers, len(suffixes)) for state in states]
        attributes: dict[str, Any] = {"direction": "bidirectional" if bidirectional else "forward", "hidden_size": H}
        if cell == "gru":
            attributes["linear_before_reset"] = 1
        for layer in range(layers):
            weights = [
                self.constant(
                    f"{kind}{layer}", np.stack([self._packed(cell, H, params, kind, layer, s) for s in suffixes])
                )
                for kind in ("weight_ih", "weight_hh", "bias")
            ]
            ends = [f"{name}{layer}" for name in "hc"[: len(last)]]
            begin = [state[layer] for state in first]
            self.node(
                OPERATOR[cell], [x, *weights, lengths, *begin], f"directions{layer}", *ends, **attributes
            )  # (T, D, B, H)
            if bidirectional:
                self.node("Transpose", [f"directions{layer}"], f"turned{layer}", perm=[0, 2, 1, 3])
                shape = self.constant(f"shape{layer}", np.array([0, 0, -1]))
                x = self.node("Reshape", [f"turned{layer}", shape], f"y{layer}")
            else:
                axis = self.constant(f"axis{layer}", np.array([1]))
                x = self.node("Squeeze", [f"directions{layer}", axis], f"y{layer}")
            for k, end in enumerate(ends):
                last[k].append(end)
        return x, last

    def _split(self, state: str, layers: int, directions: int) -> list[str]:
        if layers == 1:
            return [state]
        names = [f"{state}_of{layer}" for layer in range(layers)]
        self.node("Split", [state, self.constant(f"{state}_parts", np.full(layers, directions))], *names, axis=0)
        return names

    @staticmethod
    def _packed(cell: str, H: int, params: Arrays, kind: str, layer: int, suffix: str) -> Any:
        kinds = ("bias_ih", "bias_hh") if kind == "bias" else (kind,)
        parts = [params[f"{k}_l{layer}{suffix}"] for k in kinds]
        return np.concatenate([part[b * H : (b + 1) * H] for part in parts for b in BLOCKS[cell]])


def _layer(case: Layer, params: Arrays, data: Arrays, threads: int) -> Runner:
    graph, cut = Graph(), lengths(case)
    feed = {graph.input("x", data["x"].shape): data["x"]}
    counts = ""
    if cut is not None:
        counts = graph.input("lengths", cut.shape, TensorProto.INT32)
        feed[counts] = cut.astype(np.int32)
    y, states = graph.rnn(case.cell, case.H, case.layers, case.bidirectional, params, "x", counts, [])
    for name in [y, *(name for names in states for name in names)]:
        graph.output(name)
    session = graph.session(threads)

    def answers() -> Arrays:
        found, *ends = session.run(None, feed)
        joined = [np.concatenate(ends[k * case.layers : (k + 1) * case.layers]) for k in range(len(states))]
        return named(found, tuple(joined))

    return Runner(NAME, lambda: session.run(None, feed), answers)


def _stream(case: Layer, params: Arrays, data: Arrays, threads: int) -> Runner:
    graph = Graph()
    graph.input("x", data["x"].shape)
    before = [graph.input(f"{k}_before", (1, 1, case.H)) for k in ("h", "c")[: 2 if case.cell == "lstm" else 1]]
    y, states = graph.rnn(case.cell, case.H, 1, False, params, "x", "", before)
    for name in [y, *(names[0] for names in states)]:
        graph.output(name)
    session = graph.session(threads)
    feed = {"x": data["x"]} | {name: np.zeros((1, 1, case.H), np.float32) for name in before}

    def step() -> Any:
        found, *ends = session.run(None, feed)
        feed.update(zip(before, ends, strict=True))
        return found

    return Runner(NAME, step, lambda: first_outputs(lambda: step()[0, 0]))


def _sampler(case: Model, params: Arrays, data: Arrays, threads: int) -> Runner:
    """Token and states in, token and states out: the drawing is in the graph too."""
    shape = (case.layers, case.B, case.H)

    def session(greedy: bool) -> Any:
        graph = Graph()
        graph.input("token", (1, case.B), TensorProto.INT64)
        before = [graph.input(f"{k}_before", shape) for k in "hc"]
        one_hot = graph.node("Gather", [graph.constant("eye", np.eye(case.V, dtype=np.float32)), "token"], "x")
        weights = {name.removeprefix("rnn."): value for name, value in params.items() if name.startswith("rnn.")}
        y, states = graph.rnn("lstm", case.H, case.layers, False, weights, one_hot, "", before)
        flat = graph.node("Squeeze", [y, graph.constant("first", np.array([0]))], "flat")  # (B, H)
        output = [graph.constant(name, params[f"output.{name}"]) for name in ("weight", "bias")]
        logits = graph.node("Gemm", [flat, *output], "logits", transB=1)
        if greedy:
            drawn = graph.node("ArgMax", [logits], "drawn", axis=1)
        else:
            drawn = graph.node("Multinomial", [logits], "drawn", dtype=TensorProto.INT64, sample_size=1)  # (B, 1)
        graph.node("Reshape", [drawn, graph.constant("as_token", np.array([1, case.B]))], "next")
        graph.output("next", TensorProto.INT64)
        for k, names in zip("hc", states, strict=True):
            graph.output(graph.node("Concat", names, f"{k}_after", axis=0))
        return graph.session(threads)

    def sample(run: Any) -> Any:
        feed = {"token": np.repeat(data["prompt"], case.B)[None].astype(np.int64)}
        feed |= {"h_before": np.zeros(shape, np.float32), "c_before": np.zeros(shape, np.float32)}
        drawn = []
        for _ in range(case.T):
            feed["token"], feed["h_before"], feed["c_before"] = run(None, feed)
            drawn.append(feed["token"])
        return np.concatenate(drawn).T  # (B, T)

    drawing, greedy = session(False).run, session(True).run
    return Runner(NAME, lambda: sample(drawing), lambda: {"tokens": sample(greedy)})
