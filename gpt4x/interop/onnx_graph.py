"""Makes an ONNX graph of expressions that read like numpy's: what `decoding_graph` takes as its `ops`."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
import onnx

from gpt4x.interop.decoding_weights import Quantized

BLOCK = 128  # Neighbours of a row that are rounded together.
ONNX_RUNTIME, DOMAIN_VERSION = "com.microsoft", 1  # Operators of its own, for products of integers alone.
OPSET, IR_VERSION = 21, 10  # Of 2024: nothing newer is needed, and older ones have no Gelu.


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
  """A tensor of the graph."""

  graph: "Graph"
  name: str
  dtype: np.dtype

  __array_ufunc__ = None  # So that numpy leaves `array + value` to the value.
  __hash__ = object.__hash__

  def _with(self, kind: str, other: Any, swapped: bool = False, dtype: Any = None) -> "Value":
    operands = [self, self.graph.value(other, self.dtype)]
    return self.graph.add(kind, operands[::-1] if swapped else operands, dtype or self.dtype)

  def __add__(self, other: Any) -> "Value":
    return self._with("Add", other)

  def __sub__(self, other: Any) -> "Value":
    return self._with("Sub", other)

  def __rsub__(self, other: Any) -> "Value":
    return self._with("Sub", other, swapped=True)

  def __mul__(self, other: Any) -> "Value":
    return self._with("Mul", other)

  def __truediv__(self, other: Any) -> "Value":
    return self._with("Div", other)

  def __mod__(self, other: Any) -> "Value":
    return self._with("Mod", other)

  def __and__(self, other: Any) -> "Value":
    return self._with("And", other)

  def __or__(self, other: Any) -> "Value":
    return self._with("Or", other)

  def __lt__(self, other: Any) -> "Value":
    return self._with("Less", other, dtype=bool)

  def __gt__(self, other: Any) -> "Value":
    return self._with("Greater", other, dtype=bool)

  def __ge__(self, other: Any) -> "Value":
    return self._with("GreaterOrEqual", other, dtype=bool)

  def __eq__(self, other: Any) -> "Value":  # type: ignore[override]
    return self._with("Equal", other, dtype=bool)


class Graph:
  """Nodes in the order in which they are computed, and the constants that they need.

  Methods are numpy's where it has them. A shape that is reshaped to has 0 for an axis that stays as it is.
  """

  def __init__(self) -> None:
    self.nodes: list[onnx.NodeProto] = []
    self.constants: dict[str, np.ndarray] = {}
    self._known: dict[Any, Value] = {}  # Constants that appear in expressions, once each.

  def constant(self, name: str, array: np.ndarray) -> Value:
    self.constants[name] = array
    return Value(self, name, array.dtype)

  def value(self, x: Any, dtype: Any = None) -> Value:
    """A tensor as it is, or numbers as a constant."""
    if isinstance(x, Value):
      return x
    array = np.asarray(x, None if isinstance(x, (np.ndarray, np.generic)) else dtype)
    key = array.dtype.str, array.shape, array.tobytes()
    if key not in self._known:
      self._known[key] = self.constant(f"constant_{len(self.constants)}", array)
    return self._known[key]

  def add(self, kind: str, inputs: Sequence[Any], dtype: Any, name: str = "", **attributes: Any) -> Value:
    return self._add(kind, inputs, dtype, [name or f"{kind}_{len(self.nodes)}"], **attributes)[0]

  def _add(self, kind: str, inputs: Sequence[Any], dtype: Any, names: list[str], **attributes: Any) -> list[Value]:
    names_in = [self.value(x).name for x in inputs]
    self.nodes.append(onnx.helper.make_node(kind, names_in, names, f"{kind}_{len(self.nodes)}", **attributes))
    return [Value(self, name, np.dtype(dtype)) for name in names]

  # Products by the model's kernels: all of them, and nothing else.

  def product(self, x: Value, kernel: Any, transposed: bool = False) -> Value:
    """x [..., I] by a kernel [I, O], or [O, I] if it is transposed; or one of several, along axes in front."""
    if not isinstance(kernel, Quantized):
      return self.matmul(x, self.transpose(kernel, (1, 0)) if transposed else kernel)
    values, scales = self.constants.get(kernel.values.name), self.constants.get(kernel.scales.name)
    if values is None or scales is None or values.ndim > 2:
      return self._integer_product(x, kernel, transposed)
    if scales.shape[1 if transposed else 0] > 1:  # Of a kernel that sums the other way: inputs have scales.
      return self._integer_product(x * scales.reshape(-1), Quantized(kernel.values, np.ones((1, 1), np.float32)),
                                   transposed)
    inputs, outputs = values.shape[::-1] if transposed else values.shape
    packed, steps = self._blocks(kernel, transposed)
    return self.add("MatMulNBits", [x, packed, steps], x.dtype, domain=ONNX_RUNTIME, K=inputs, N=outputs, bits=8,
                    block_size=BLOCK, accuracy_level=4)

  def _blocks(self, kernel: Quantized, transposed: bool) -> tuple[Value, Value]:
    """int8 values as MatMulNBits has them, [O, blocks, BLOCK] bytes with zero at 128, and a scale for each block.

    It rounds each block of a row of x by itself, in the same kernel: a step of 12 layers of width 512 has 400 nodes
    less than with MatMulInteger.
    """
    name = f"{kernel.values.name}.blocks"
    if name not in self.constants:
      values, scales = self.constants[kernel.values.name], self.constants[kernel.scales.name]
      values = values if transposed else values.T
      bytes_ = np.pad(values, ((0, 0), (0, -values.shape[1] % BLOCK))).view(np.uint8) ^ 128
      self.constants[name] = bytes_.reshape(len(values), -1, BLOCK)
      self.constants[f"{name}.scales"] = np.repeat(scales.reshape(-1), self.constants[name].shape[1])
    return Value(self, name, np.dtype(np.uint8)), Value(self, f"{name}.scales", np.dtype(np.float32))

  def _integer_product(self, x: Value, kernel: Quantized, transposed: bool) -> Value:
    """By int8 values that are several or no constants, with a scale for each row of x and for each output.

    Rows become bytes with zero at 128: the same integers, by kernels of ONNX Runtime that are 70 times as fast as those
    of int8 by int8 (512 x 2,048 and one row: 15 us, 1,113 us; float32: 48 us).
    """
    values, scales = (self.transpose(self.value(part), (1, 0)) if transposed else part
                      for part in (kernel.values, kernel.scales))
    largest = self._reduce("ReduceMax", self.add("Abs", [x], x.dtype))
    row_scales = self.maximum(largest, np.float32(1e-30)) * np.float32(1 / 127)
    zero = np.uint8(128)
    rows = self.add("QuantizeLinear", [x / row_scales, np.float32(1), zero], np.uint8)
    return self.float32(self.add("MatMulInteger", [rows, values, zero], np.int32)) * row_scales * scales

  def lookup(self, table: Any, ids: Value) -> Value:
    if not isinstance(table, Quantized):
      return self.take(table, ids, 0)
    blocks, _ = self._blocks(table, transposed=True)  # Those of the logits, where the two are tied.
    row = self.reshape(self.float32(self.take(blocks, ids, 0)), (0, 0, -1)) - np.float32(128)
    return self._slice(row, 0, self.constants[table.values.name].shape[1], -1) * self.take(table.scales, ids, 0)

  # What has words of its own.

  def norm(self, x: Value, scale: Any, bias: Any, epsilon: float) -> Value:
    if bias is not None:
      return self.add("LayerNormalization", [x, scale, bias], x.dtype, axis=-1, epsilon=epsilon)
    return x / self.add("Sqrt", [self._reduce("ReduceMean", x * x) + np.float32(epsilon)], x.dtype) * scale

  def gelu(self, x: Value) -> Value:
    return self.add("Gelu", [x], x.dtype, approximate="tanh")

  def sigmoid(self, x: Value) -> Value:
    return self.add("Sigmoid", [x], x.dtype)

  def softmax(self, x: Value) -> Value:
    return self.add("Softmax", [x], x.dtype, axis=-1)

  def log_softmax(self, x: Value) -> Value:
    return self.add("LogSoftmax", [x], x.dtype, axis=-1)

  # Numpy.

  def matmul(self, x: Any, y: Any) -> Value:
    return self.add("MatMul", [x, y], np.float32)

  def take(self, x: Any, indices: Value, axis: int) -> Value:
    return self.add("Gather", [x, indices], self.value(x).dtype, axis=axis)

  def last(self, x: Value) -> Value:
    """Of [B, L, D] the last of L, [B, D]."""
    return self.take(x, self.value(np.int64(-1)), 1)

  def rows(self, x: Any, start: int, stop: int) -> Any:
    if isinstance(x, Quantized):
      return x.map(lambda part: self.rows(part, start, stop))
    return self._slice(self.value(x), start, stop, 0)

  def cut(self, x: Value, size: int) -> tuple[Value, Value]:
    """The first `size` of the last axis, and the others."""
    return self._slice(x, 0, size, -1), self._slice(x, size, 2**62, -1)

  def split(self, x: Value, sizes: Sequence[int]) -> list[Value]:
    """Of the last axis."""
    names = [f"Split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
    return self._add("Split", [x, np.array(sizes, np.int64)], x.dtype, names, axis=-1)

  def reshape(self, x: Value, shape: Sequence[int]) -> Value:
    return self.add("Reshape", [x, np.array(shape, np.int64)], x.dtype)

  def expand_dims(self, x: Value, axes: Sequence[int]) -> Value:
    return self.add("Unsqueeze", [x, np.array(axes, np.int64)], x.dtype)

  def transpose(self, x: Any, axes: Sequence[int]) -> Value:
    return self.add("Transpose", [x], self.value(x).dtype, perm=list(axes))

  def concatenate(self, parts: Sequence[Value], axis: int) -> Value:
    return self.add("Concat", parts, parts[0].dtype, axis=axis)

  def where(self, condition: Any, x: Any, y: Any) -> Value:
    return self.add("Where", [condition, x, y], self.value(x if isinstance(x, Value) else y).dtype)

  def maximum(self, x: Value, y: Any) -> Value:
    return self.add("Max", [x, self.value(y, x.dtype)], x.dtype)

  def minimum(self, x: Value, y: Any) -> Value:
    return self.add("Min", [x, self.value(y, x.dtype)], x.dtype)

  def argmax(self, x: Value) -> Value:
    return self._cast(self.add("ArgMax", [x], np.int64, axis=-1, keepdims=0), np.int32)

  def sum(self, x: Value) -> Value:
    """Over the last axis, which stays."""
    return self._reduce("ReduceSum", x)

  def sin(self, x: Value) -> Value:
    return self.add("Sin", [x], x.dtype)

  def cos(self, x: Value) -> Value:
    return self.add("Cos", [x], x.dtype)

  def float32(self, x: Value) -> Value:
    return self._cast(x, np.float32)

  def arange(self, tokens: Value) -> Value:
    """0, 1, ..., L - 1 for tokens [B, L]."""
    length = self.add("Squeeze", [self.add("Shape", [tokens], np.int64, start=1, end=2)], np.int64)
    return self.add("Range", [np.int32(0), self._cast(length, np.int32), np.int32(1)], np.int32)

  def _cast(self, x: Value, dtype: Any) -> Value:
    return self.add("Cast", [x], dtype, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

  def _reduce(self, kind: str, x: Value) -> Value:
    return self.add(kind, [x, np.array([-1], np.int64)], x.dtype, keepdims=1)

  def _slice(self, x: Value, start: int, stop: int, axis: int) -> Value:
    return self.add("Slice", [x, *(np.array([one], np.int64) for one in (start, stop, axis))], x.dtype)
