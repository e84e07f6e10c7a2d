"""Reads model.tflite."""

try:
  from ai_edge_litert.interpreter import Interpreter
except ImportError:
  from tflite_runtime.interpreter import Interpreter


def load(folder, config):
  """(function of the named inputs, their shapes, V); the function gives the named outputs."""
  interpreter = Interpreter(str(folder / "model.tflite"))
  step, prefill = (interpreter.get_signature_runner(name) for name in ("step", "prefill"))
  runs = {config["chunk"]: prefill, 1: step}
  return (lambda inputs: runs[inputs["tokens"].size](**inputs),
          {name: tuple(one["shape"]) for name, one in step.get_input_details().items()},
          step.get_output_details()["logits"]["shape"][-1])
