"""A decoder as a TFLite file with two signatures, a step and a prefill, by way of jax2tf."""

from collections.abc import Mapping
import pathlib
import tempfile

from jax.experimental import jax2tf

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import tensorflow as tf

from gpt4x.errors import one_line, UserError
from gpt4x.interop import decoding_graph, decoding_inputs, decoding_jax, decoding_weights
from gpt4x.interop.decoding_weights import Quantized, Weight
from gpt4x.models.config import TransformerConfig

NAMES = ("model.tflite",)
LARGEST = 2**31 - 2**24  # Bytes: a flatbuffer has offsets of 31 bits.


def save(folder: pathlib.Path, config: TransformerConfig, weights: Mapping[str, Weight], window: int,
         chunk: int) -> list[str]:
  """Converts both functions; returns the name of the file."""
  if (size := sum(array.nbytes for array in decoding_weights.flat(weights).values())) > LARGEST:
    raise UserError(f"a TFLite file holds less than 2 GiB, and the model's weights are {size / 2**30:.1f}: choose"
                    " --format=onnx or stablehlo")

  def call(arrays, inputs):
    return decoding_inputs.named_outputs(decoding_graph.run(
        decoding_jax, config, window, decoding_weights.nested(arrays), decoding_inputs.named_inputs(inputs)))

  # TFLite has no product of bare integers: its converter makes them of arrays, with a scale for each output as well.
  quantized = any(isinstance(weight, Quantized) for weight in weights.values())
  weights = {name: decoding_weights.dense(weight) for name, weight in weights.items()}
  module = tf.Module()
  # Within the traced function they would go through text, which takes 70 times their size.
  module.weights = {name: tf.Variable(array, trainable=False) for name, array in decoding_weights.flat(weights).items()}
  converted, arrays = jax2tf.convert(call, with_gradient=False), dict(module.weights)

  def signature(length):
    shapes = decoding_inputs.input_shapes(config, window, 1, length)
    function = tf.function(lambda **inputs: converted(arrays, inputs), autograph=False)
    return function.get_concrete_function(
        **{key: tf.TensorSpec(shape, dtype, name=key) for key, (dtype, shape) in shapes.items()})

  signatures = {"step": signature(1), "prefill": signature(chunk)}
  with tempfile.TemporaryDirectory() as saved:
    tf.saved_model.save(module, saved, signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(signatures))
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantized else []
    try:
      content = converter.convert()
    except Exception as error:  # ConverterError, and what the libraries below raise.
      raise UserError(f"TensorFlow cannot convert this model to TFLite ({one_line(error)}): export another format"
                      ) from error
  (folder / NAMES[0]).write_bytes(content)
  return list(NAMES)
