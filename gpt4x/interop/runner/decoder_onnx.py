"""Reads model.onnx."""

import onnxruntime


def load(folder, config):
  """(function of the named inputs, their shapes, V); the function gives the named outputs."""
  del config
  onnxruntime.set_default_logger_severity(4)  # Errors are raised.
  session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
  names = [one.name for one in session.get_outputs()]
  return (lambda inputs: dict(zip(names, session.run(names, inputs))),
          {one.name: one.shape for one in session.get_inputs()}, session.get_outputs()[0].shape[-1])
