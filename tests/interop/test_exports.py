"""Our own models as safetensors: bit for bit there and back, layer by layer whether scanned or not."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from gpt4x.errors import UserError
from gpt4x.interop import exports
from tests.models import tiny


@pytest.mark.parametrize("style", [*tiny.STYLES.values(), dict(num_layers=4, share_layers=2)],
                         ids=[*tiny.STYLES, "shared layers"])
def test_bit_for_bit_there_and_back(style, tmp_path):
  scanned, apart = (tiny.make(**style | dict(scan_layers=scan, memory_length=3)) for scan in (True, False))
  exports.save(tmp_path / "scanned", scanned.lm, scanned.params)
  model, params = exports.load(tmp_path / "scanned")
  assert model.config == scanned.config
  jax.tree.map(np.testing.assert_array_equal, params, scanned.params)

  model, params = exports.load(tmp_path / "scanned", scan_layers=False)
  assert model.config == apart.config
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, apart.params)
  exports.save(tmp_path / "apart", model, params)
  files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("scanned", "apart")]
  assert files[0] == files[1]


def test_names_on_disk(tmp_path):
  model = tiny.make(scan_layers=True)
  exports.save(tmp_path, model.lm, jax.tree.map(jax.numpy.asarray, model.params))
  tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode
  assert all(tensor.dtype == np.float32 for tensor in tensors.values())
  assert sum(tensor.size for tensor in tensors.values()) == model.config.num_params()
  np.testing.assert_array_equal(tensors["layers.1.attention.query"], model.params["layers"]["attention"]["query"][1])
  np.testing.assert_array_equal(tensors["vocabulary.table"], model.params["vocabulary"]["table"])


def test_nothing_is_overwritten(tmp_path):
  model = tiny.make()
  exports.save(tmp_path, model.lm, model.params)
  with pytest.raises(UserError, match="model.safetensors is there already"):
    exports.save(tmp_path, model.lm, model.params)


@pytest.mark.parametrize("change, words", [
    (dict(format="else"), "format 'else', version 1"), (dict(version=2), "format 'gpt4x', version 2"),
    (dict(transformer=dict(num_layer=2)), "unknown field num_layer of TransformerConfig: did you mean num_layers?"),
    (dict(transformer=dict(num_layers=2)), "wrong kind"), (dict(transformer=None), "has no field transformer"),
])
def test_a_malformed_configuration(change, words, tmp_path):
  model = tiny.make()
  exports.save(tmp_path, model.lm, model.params)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(UserError, match=words):
    exports.load(tmp_path)


@pytest.mark.parametrize("name, value", [
    ("num_layers", 2.0), ("num_layers", True), ("num_layers", "2"), ("num_layers", 10**12), ("num_layers", -1),
    ("num_layers", 10**400),
    ("norm_epsilon", True), ("norm_epsilon", "1"), ("norm_epsilon", float("nan")), ("norm_epsilon", 10**400),
    ("dropout_rate", 2),
    ("dropout_rate", 1e999), ("norm", "other"), ("norm", 1), ("norm", ["layer"]), ("scan_layers", 1),
    ("adaptive_cutoffs", 3),
    ("adaptive_cutoffs", ["3"]), ("adaptive_cutoffs", [3, [5]]), ("adaptive_cutoffs", [7, 3]), ("tie_projections", [1]),
    ("clamp_length", 0.5), ("moe", 5), ("moe", ["a"]), ("moe", {"num_expert": 4}), ("moe", {}),
    ("moe", {"num_experts": 0}),
    ("moe", {"num_experts": "4"}), ("moe", {"num_experts": 4, "jitter": float("inf")}), ("x\ny", 1),
    ("vocab_size", [[[]]])],
    ids=str)
def test_odd_values_of_a_configuration(name, value, tmp_path):
  model = tiny.make()
  exports.save(tmp_path, model.lm, model.params)
  path = tmp_path / "config.json"
  content = json.loads(path.read_text())
  content["transformer"][name] = value
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=f"^{path}") as error:
    exports.load(tmp_path)
  assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 1000


def test_sizes_that_the_weights_cannot_have(tmp_path):
  """They are compared with the bytes there are, before a model is made of them; shared layers have no bytes."""
  model = tiny.make()
  exports.save(tmp_path, model.lm, model.params)
  size = (tmp_path / "model.safetensors").stat().st_size
  for changes in (dict(num_layers=10**9), dict(num_layers=2000, scan_layers=False), dict(vocab_size=10**9)):
    with pytest.raises(UserError, match=rf"model.safetensors: {size:,} bytes are too few for the [\d.e+]+ parameters"):
      exports.load(tmp_path, **changes)
  with pytest.raises(UserError, match="model.safetensors: .* makes 1,000,000,000 layers, and 10,000 are the most"):
    exports.load(tmp_path, num_layers=10**9, share_layers=10**9)


def test_a_configuration_of_other_shapes(tmp_path):
  model = tiny.make()
  exports.save(tmp_path, model.lm, model.params)
  with pytest.raises(UserError, match=r"the tensor layers.0.mlp.wi is \[8, 14\], and \[8, 16\] by its configuration"):
    exports.load(tmp_path, mlp_dim=16)
