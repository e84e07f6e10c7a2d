"""A decoder as an ONNX file: one graph for any number of tokens at a time, so that a step is the case of one."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import numpy as np
import onnx
from onnx import helper, TensorProto

from gpt4x.interop import decoding_graph, decoding_inputs, decoding_weights, onnx_graph
from gpt4x.interop.decoding_weights import Weight
from gpt4x.models.config import TransformerConfig

NAMES = "model.onnx", "model.onnx.data"
LARGEST = 2**31 - 2**24  # Bytes of constants in the file itself, which protobuf limits; more lie beside it.
_EXTERNAL = 1024  # Bytes from which on a constant lies there.


def save(folder: pathlib.Path, config: TransformerConfig, weights: Mapping[str, Weight], window: int,
         chunk: int) -> list[str]:
  """Writes the graph; returns the names of the files."""
  del chunk  # Any number of tokens up to the window will do.
  graph = onnx_graph.Graph()
  constants = {name: graph.constant(name, np.asarray(one)) for name, one in decoding_weights.flat(weights).items()}
  shapes = decoding_inputs.input_shapes(config, window)
  inputs = decoding_inputs.named_inputs({name: onnx_graph.Value(graph, name, np.dtype(dtype))
                                        for name, (dtype, _) in shapes.items()})
  outputs = decoding_graph.run(graph, config, window, decoding_weights.nested(constants), inputs)
  for name, value in decoding_inputs.named_outputs(outputs).items():
    graph.add("Identity", [value], value.dtype, name=name)
  declared = lambda shapes: [helper.make_tensor_value_info(
      name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape) for name, (dtype, shape) in shapes.items()]
  external = folder / NAMES[1] if sum(one.nbytes for one in graph.constants.values()) > LARGEST else None
  used = {name for node in graph.nodes for name in node.input}
  tensors = _tensors({name: one for name, one in graph.constants.items() if name in used}, external)
  outputs_declared = declared(decoding_inputs.output_shapes(config))
  domains = {("", onnx_graph.OPSET)} | {(node.domain, onnx_graph.DOMAIN_VERSION) for node in graph.nodes if node.domain}
  model = helper.make_model(
      helper.make_graph(graph.nodes, "decoder", declared(shapes), outputs_declared, tensors),
      opset_imports=[helper.make_opsetid(*one) for one in domains], ir_version=onnx_graph.IR_VERSION,
      producer_name="gpt4x")
  (folder / NAMES[0]).write_bytes(model.SerializeToString())
  return list(NAMES if external else NAMES[:1])


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
