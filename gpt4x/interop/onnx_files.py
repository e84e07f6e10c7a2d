"""A decoder as an ONNX file: one graph for any number of tokens at a time, so that a step is the case of one."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import numpy as np
import onnx
from onnx import helper, TensorProto

from gpt4x.interop import decoding_graph, onnx_graph
from gpt4x.interop.decoding_weights import Quantized, Weight
from gpt4x.models.config import TransformerConfig

LARGEST = 2**31 - 2**24  # Bytes of constants in the file itself, of which protobuf takes 2 GiB; else they lie beside it.
_EXTERNAL = 1024  # Bytes from which on a constant lies there.


def save(path: pathlib.Path, config: TransformerConfig, weights: Mapping[str, Weight], window: int) -> list[str]:
  """Writes the graph; returns the names of the files."""
  graph = onnx_graph.Graph()

  def constant(name, weight):
    if isinstance(weight, Quantized):
      return Quantized(graph.constant(f"{name}.values", weight.values), graph.constant(f"{name}.scales", weight.scales))
    return graph.constant(name, np.asarray(weight, np.float32))

  shapes = decoding_graph.input_shapes(config, window)
  inputs = decoding_graph.named_inputs({name: onnx_graph.Value(graph, name, np.dtype(dtype))
                                        for name, (dtype, _) in shapes.items()})
  outputs = decoding_graph.run(graph, config, window, {name: constant(name, one) for name, one in weights.items()},
                               inputs)
  for name, value in decoding_graph.named_outputs(outputs).items():
    graph.add("Identity", [value], value.dtype, name=name)
  declared = lambda shapes: [helper.make_tensor_value_info(
      name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape) for name, (dtype, shape) in shapes.items()]
  external = path.with_name(f"{path.name}.data") if sum(
      one.nbytes for one in graph.constants.values()) > LARGEST else None
  used = {name for node in graph.nodes for name in node.input}
  constants = _tensors({name: one for name, one in graph.constants.items() if name in used}, external)
  model = helper.make_model(
      helper.make_graph(graph.nodes, "decoder", declared(shapes), declared(decoding_graph.output_shapes(config)), constants),
      opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)], ir_version=onnx_graph.IR_VERSION,
      producer_name="gpt4x")
  path.write_bytes(model.SerializeToString())
  return [path.name] + ([external.name] if external else [])


def _tensors(constants: Mapping[str, np.ndarray], external: pathlib.Path | None) -> list[TensorProto]:
  if external is None:
    return [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
  tensors: list[Any] = []
  with open(external, "wb") as file:
    for name, array in constants.items():
      if array.nbytes < _EXTERNAL:
        tensors.append(onnx.numpy_helper.from_array(array, name))
        continue
      file.seek(-file.tell() % 4096, os.SEEK_CUR)  # So that it may be mapped into memory.
      tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL,
                           data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
      for key, value in (("location", external.name), ("offset", file.tell()), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
      tensors.append(tensor)
      file.write(np.ascontiguousarray(array).data)
  return tensors
