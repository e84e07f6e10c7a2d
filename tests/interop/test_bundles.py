"""Exported decoders: their logits are JAX's, in three windows of tokens; quantized kernels; files of any size."""

import dataclasses
import functools

import flax.struct
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import seqio

from gpt4x.compression.integers import to_int8
from gpt4x.interop import bundles, decoding_inputs, decoding_jax, decoding_weights, layerwise, onnx_files, onnx_graph
from gpt4x.models import parameters
from gpt4x.models.language_model import LanguageModel
from tests.interop import exported
from tests.interop.exported import WINDOW
from tests.models import tiny

# All variations in one format; the others are made of the same function.
CASES = [("onnx", style) for style in exported.STYLES] + [
    ("stablehlo", "paper"), ("stablehlo", "mixture"),
    *(("tflite", style) for style in ("paper", "modern", "adaptive", "mixture"))]


@pytest.mark.parametrize("kind, style", CASES)
def test_logits_are_those_of_one_pass_over_three_windows(kind, style):
  """By steps all the way, and behind prompts that end before, at and behind the ends of the ring."""
  folder, expected = exported.bundle(kind, style), exported.expected(style)
  tokens = exported.tokens(tiny.make(**exported.STYLES[style]).config)
  decoder = exported.model(folder)
  found = [decoder.read(tokens[:1])] + [decoder([token]) for token in tokens[1:]]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  for length in (1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW):
    decoder = exported.model(folder)
    found = [decoder.read(tokens[:length]), *(decoder([token]) for token in tokens[length:length + 2])]
    np.testing.assert_allclose(found, expected[length - 1:length + 2], atol=1e-4)


@pytest.mark.parametrize("style, window", [("paper", 1), ("modern", 1), ("same_length", 2)])
def test_windows_of_one_and_two_positions(style, window, tmp_path):
  made = tiny.make(**exported.STYLES[style])
  tokens = exported.tokens(made.config)
  decoder = exported.model(exported.write("onnx", made, tmp_path / "made", window=window))
  run = tiny.jit(functools.partial(made.lm.logits, window=window))
  expected = run(made.params, np.array([tokens]), made.lm.initial_memory(1, window))[0][0]
  np.testing.assert_allclose([decoder.read(tokens[:3]), *(decoder([token]) for token in tokens[3:])], expected[2:],
                             atol=1e-4)


@pytest.mark.parametrize("style", ["paper", "modern"])
def test_weights_beside_the_file_are_read_from_there(style, tmp_path, monkeypatch):
  monkeypatch.setattr(onnx_files, "LARGEST", 1000)
  made, tokens = tiny.make(**exported.STYLES[style]), exported.tokens(tiny.make(**exported.STYLES[style]).config)
  decoder = exported.model(exported.write("onnx", made, tmp_path / "beside"))
  assert (tmp_path / "beside" / "model.onnx.data").stat().st_size > 4 * 1000
  np.testing.assert_allclose(decoder.read(tokens), exported.expected(style)[-1], atol=1e-4)


def test_a_graph_is_valid_onnx_for_any_number_of_rows_and_tokens():
  for style in exported.STYLES:
    onnx.checker.check_model(str(exported.bundle("onnx", style) / "model.onnx"), full_check=True)


def test_stablehlo_is_for_every_platform():
  for name in ("step", "prefill"):
    exported_function = jax.export.deserialize(bytearray(
        (exported.bundle("stablehlo", "paper") / f"{name}.stablehlo").read_bytes()))
    assert exported_function.platforms == ("cpu", "tpu", "cuda")


def test_several_documents_and_rows_do_not_see_each_other():
  """In ONNX, whose sizes are open: what JAX's prefill gives for rows with padding and several documents."""
  made = tiny.make(**exported.STYLES["paper"])
  tokens, documents = tiny.random_tokens(made.config, 2 * WINDOW), tiny.random_documents(2 * WINDOW)
  documents[:, -1] = documents.max(1)  # The last is no padding.
  memory = made.lm.initial_memory(len(tokens), WINDOW)
  expected, _ = tiny.jit(lambda *inputs: made.lm.logits(made.params, *inputs, window=WINDOW))(tokens, memory, documents)
  run = exported.model(exported.bundle("onnx", "paper")).run
  shapes = decoding_inputs.input_shapes(made.config, WINDOW, len(tokens), WINDOW)
  cache = {name: np.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()}
  for start in (0, WINDOW):  # Two rings full, so that every slot is written.
    piece = slice(start, start + WINDOW)
    cache |= {"tokens": tokens[:, piece], "segment_ids": documents[:, piece], "index": np.array(start, np.int32)}
    out = run(cache)
    np.testing.assert_allclose(out["logits"], expected[:, start + WINDOW - 1], atol=1e-4)
    cache |= {name: out[f"new_{name}"] for name in cache if f"new_{name}" in out}
    cache["cache_segment_ids"] = documents[:, piece]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("ops", ["onnx", "jax", "several onnx", "several jax"])
def test_a_quantized_product_is_that_of_the_same_integers(ops, transposed):
  """ONNX Runtime's rounds each block of a row by itself, but where there are several kernels."""
  rng, several = np.random.default_rng(0), ops.startswith("several")
  inputs = 2 * onnx_graph.BLOCK + 40
  x = rng.normal(size=(1, 3, inputs)).astype(np.float32)
  x[0, 1] = 0
  values = rng.integers(-127, 128, (inputs, 9), dtype=np.int8)
  scales = rng.uniform(0.01, 0.1, (1, 9)).astype(np.float32)
  blocks = np.split(x, (onnx_graph.BLOCK, 2 * onnx_graph.BLOCK), -1) if ops == "onnx" else [x]
  expected, start = 0.0, 0
  for block in blocks:
    steps = np.maximum(np.abs(block).max(-1, keepdims=True), np.float32(1e-30)) * np.float32(1 / 127)
    part = values[start:start + block.shape[-1]].astype(np.float64)
    expected, start = expected + np.rint(block / steps).astype(np.float64) @ part * steps, start + block.shape[-1]
  if several:
    if transposed:
      pytest.skip("R alone is several kernels")
    x, expected = x[None], expected[None]
    kernel = decoding_weights.Quantized(values[None, None], scales[None, None])
  else:
    kernel = decoding_weights.Quantized(*((part.T.copy() if transposed else part) for part in (values, scales)))
  found = (jax.jit(lambda x: decoding_jax.product(x, kernel, transposed))(x) if "jax" in ops else
           evaluate(lambda graph, x: graph.product(x, constants(graph, kernel), transposed), x))
  np.testing.assert_allclose(found, expected * scales, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ops", ["onnx", "jax"])
def test_a_quantized_product_in_the_other_direction(ops):
  """As that of a tied projection: a scale for each input, which x is multiplied by first."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 3, 9)).astype(np.float32)
  kernel = decoding_weights.Quantized(rng.integers(-127, 128, (40, 9), dtype=np.int8),
                                      rng.uniform(0.01, 0.1, (1, 9)).astype(np.float32))
  found = (jax.jit(lambda x: decoding_jax.product(x, kernel, True))(x) if ops == "jax" else
           evaluate(lambda graph, x: graph.product(x, constants(graph, kernel), True), x))
  x = x * kernel.scales  # Not in place: JAX may still read the array that it was given.
  steps = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-30)) * np.float32(1 / 127)
  expected = np.rint(x / steps).astype(np.float64) @ kernel.values.T * steps
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def constants(graph, kernel):
  return decoding_weights.Quantized(graph.constant("k.values", kernel.values),
                                    graph.constant("k.scales", kernel.scales))


def test_a_quantized_table_gives_its_rows():
  rng = np.random.default_rng(0)
  table = decoding_weights.Quantized(rng.integers(-127, 128, (7, 40), dtype=np.int8),
                                     rng.uniform(0.01, 0.1, (7, 1)).astype(np.float32))
  found = evaluate(lambda graph, x: graph.lookup(constants(graph, table), graph._cast(x, np.int32)),
                   np.array([[3, 0, 6]], np.float32))
  np.testing.assert_allclose(found, table.dense()[[[3, 0, 6]]])


def evaluate(function, x):
  """What ONNX Runtime makes of a function of a graph and a tensor."""
  import onnxruntime
  graph = onnx_graph.Graph()
  graph.add("Identity", [function(graph, onnx_graph.Value(graph, "x", x.dtype))], np.float32, name="y")
  declare = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
  made_of = [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
  made = onnx.helper.make_model(
      onnx.helper.make_graph(graph.nodes, "g", [declare("x")], [declare("y")], made_of),
      opset_imports=[onnx.helper.make_opsetid("", onnx_graph.OPSET),
                     onnx.helper.make_opsetid(onnx_graph.ONNX_RUNTIME, onnx_graph.DOMAIN_VERSION)],
      ir_version=onnx_graph.IR_VERSION)
  return onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]


def quantized(array, axis):
  scales = np.maximum(np.abs(array).max(axis, keepdims=True), 1e-9) / 127
  return decoding_weights.Quantized(np.rint(array / scales).astype(np.int8), scales.astype(np.float32))


def test_a_quantized_tflite_file_holds_integers(tmp_path):
  """TensorFlow makes them, of kernels that are large enough."""
  made = tiny.make(vocab_size=64, embed_dim=64, num_heads=2, head_dim=32, mlp_dim=256, norm_position="pre")
  weights = decoding_weights.make(made.config, layerwise.split(made.lm.init(jax.random.key(0))), WINDOW)
  kernels = ("project", "out", "wi", "wo")
  integers = {name: quantized(one, 0) if name.endswith(kernels) else one for name, one in weights.items()}
  found, tokens = {}, exported.tokens(made.config)
  for name, kind, these in (("float", "onnx", weights), ("onnx", "onnx", integers), ("tflite", "tflite", integers)):
    bundles.save(tmp_path / name, kind, bundles.Decoder(made.lm, these, WINDOW), seqio.ByteVocabulary())
    found[name] = exported.model(tmp_path / name).read(tokens)
  size = lambda name: next((tmp_path / name).glob("model.*")).stat().st_size
  assert size("tflite") < 0.6 * size("float")
  np.testing.assert_allclose(found["tflite"], found["onnx"], atol=0.05)
  np.testing.assert_allclose(found["onnx"], found["float"], atol=0.05)


@flax.struct.dataclass
class Twice(parameters.Substitute):
  """A substitute of another kind."""

  half: jax.Array

  def dense(self, dtype):
    return 2 * self.half.astype(dtype)


@pytest.mark.parametrize("style", ["modern", "unscanned"])
def test_substitutes_in_the_parameters_are_found(style):
  """By layers that are scanned and those that are not: what has integers keeps them, others are the array they are."""
  made = tiny.make(**exported.STYLES[style])
  _, declared = made.lm.declared
  stacked = lambda declaration, array: array.ndim - len(declaration.names)

  def substitute(path, declaration, array):
    if not declaration.is_kernel or path[-1].key == "wo":
      return Twice(array / 2) if path[-1].key == "wo" else array
    axes = tuple(axis + stacked(declaration, array) for axis in declaration.summed_axes)
    return to_int8(jnp.asarray(array), axes)

  is_leaf = lambda leaf: isinstance(leaf, parameters.Declaration)
  params = jax.tree_util.tree_map_with_path(substitute, declared, made.params, is_leaf=is_leaf)
  named, plain = decoding_weights.named(params), layerwise.split(made.params)
  assert named.keys() == plain.keys()
  for name, array in plain.items():
    found = named[name]
    assert found.shape == array.shape, name
    kernel = name.rpartition(".")[2] in ("query", "key", "value", "out", "relative_key", "wi", "wi_gate", "table")
    assert isinstance(found, decoding_weights.Quantized) == kernel or name == "vocabulary.output_kernel"
    np.testing.assert_allclose(decoding_weights.dense(found), array, atol=0.01)


def test_a_memory_of_integers_makes_integers_of_positions(tmp_path):
  made = tiny.make(**exported.STYLES["paper"])
  config = dataclasses.replace(made.config, memory_dtype="int8")
  weights = decoding_weights.make(config, layerwise.split(made.params), WINDOW)
  for kind in ("onnx", "stablehlo"):
    bundles.save(tmp_path / kind, kind, bundles.Decoder(LanguageModel(config), weights, WINDOW), seqio.ByteVocabulary())
    found = exported.model(tmp_path / kind).read(exported.tokens(config))
    assert 1e-4 < np.abs(found - exported.expected("paper")[-1]).max() < 0.3
  keys = weights["layers.0.position_keys"]
  assert keys.values.dtype == np.int8 and keys.scales.shape == (4, 1, 1, WINDOW)


@pytest.mark.parametrize("style", ["paper", "modern", "adaptive", "bottleneck"])
def test_a_model_of_quantized_kernels_is_near_the_one_that_they_stand_for(style, tmp_path):
  """Every kernel that `product` multiplies by, the tied table and the layer's joint projections among them."""
  made = tiny.make(**exported.STYLES[style])
  axes = {"query": 0, "key": 0, "value": 0, "relative_key": 0, "out": (0, 1), "wi": 0, "wi_gate": 0, "wo": 0,
          "projection": 0}
  named = layerwise.split(made.params)
  for name, array in named.items():
    kind = name.rpartition(".")[2]
    if kind in axes or kind.startswith(("table", "output_kernel")):
      named[name] = quantized(np.asarray(array), axes.get(kind, 1))
  weights = decoding_weights.make(made.config, named, WINDOW)
  assert sum(isinstance(one, decoding_weights.Quantized) for one in weights.values()) >= 4 * made.config.num_layers
  found = {}
  for kind in ("onnx", "stablehlo"):
    bundles.save(tmp_path / kind, kind, bundles.Decoder(made.lm, weights, WINDOW), seqio.ByteVocabulary())
    found[kind] = exported.model(tmp_path / kind).read(exported.tokens(made.config))
  np.testing.assert_allclose(found["onnx"], found["stablehlo"], atol=0.05)
  assert 1e-4 < np.abs(found["onnx"] - exported.expected(style)[-1]).max() < 1
  weights_bytes = lambda folder: sum(array.nbytes for array in np.load(folder / "weights.npz").values())
  assert weights_bytes(tmp_path / "stablehlo") < 4 * made.config.num_params()
