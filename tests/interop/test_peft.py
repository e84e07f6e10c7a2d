"""Adapters in PEFT's layout, as its files are published: what they add, in float64; in and out; what is refused."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.partitioning import Partitioner
from tests.interop import llama
from tests.models import tiny

CONFIG = dict(peft_type="LORA", task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"],
              bias="none", lora_dropout=0.05, fan_in_fan_out=False, modules_to_save=None, use_rslora=False,
              use_dora=False, base_model_name_or_path="somewhere", rank_pattern={}, alpha_pattern={})
MODULES = "self_attn.q_proj", "mlp.down_proj"


def adapters(tensors, rank=3, seed=5):
  rng, found = np.random.default_rng(seed), {}
  for i in range(2):
    for module in MODULES:
      outputs, inputs = tensors[f"model.layers.{i}.{module}.weight"].shape
      name = f"base_model.model.model.layers.{i}.{module}"
      found[f"{name}.lora_A.weight"] = rng.normal(size=(rank, inputs)).astype(np.float32)
      found[f"{name}.lora_B.weight"] = rng.normal(size=(outputs, rank)).astype(np.float32)
  return found


def write(directory, tensors, **changes):
  directory.mkdir()
  (directory / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
  safetensors.numpy.save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
  return directory


@pytest.fixture(name="base", scope="module")
def _base(tmp_path_factory):
  """A Llama of Hugging Face's, and the model directory that it becomes."""
  folder = tmp_path_factory.mktemp("peft")
  config = llama.make_config("smollm")
  tensors = llama.make_tensors(config)
  llama.write(folder / "llama", config, tensors)
  assert cli.main(["convert", "--from=huggingface", f"--input={folder}/llama", f"--model_dir={folder}/base"]) == 0
  return folder, config, tensors


def convert(base, directory, output):
  return cli.main(["convert", "--from=peft", f"--base={base[0]}/base", f"--input={directory}",
                   f"--model_dir={output}"])


@pytest.mark.parametrize("changes, scale", [({}, 2.0), (dict(use_rslora=True), 6 / 3**0.5)])
def test_they_add_what_they_are_said_to(base, tmp_path, changes, scale):
  """The logits of merged tensors, of tests/interop/llama.py; and the same files again."""
  _, config, tensors = base
  added = adapters(tensors)
  assert convert(base, write(tmp_path / "in", added, **changes), tmp_path / "run") == 0
  whole = dict(tensors)
  for name in (name for name in added if name.endswith("lora_A.weight")):
    kernel = name.removeprefix("base_model.model.").replace("lora_A.", "")
    low, high = np.float64(added[name]), np.float64(added[name.replace("lora_A", "lora_B")])
    whole[kernel] = whole[kernel] + scale * high @ low
  experiment = reading.saved_experiment(str(tmp_path / "run"), data=False)
  _, params = experiment.restore_params(str(tmp_path / "run"), Partitioner(data=1, num_devices=1))
  model = experiment.language_model
  tokens = np.random.default_rng(1).integers(0, config["vocab_size"], 12, dtype=np.int32)
  logits, _ = tiny.jit(model.logits)(params, tokens[None], model.initial_memory(1))
  expected = llama.forward(whole, config, tokens)
  np.testing.assert_allclose(logits[0], expected, rtol=0, atol=2e-4)
  assert np.abs(expected - llama.forward(tensors, config, tokens)).max() > 0.1

  assert cli.main(["export", "--format=peft", f"--model_dir={tmp_path}/run", f"--output={tmp_path}/out"]) == 0
  found = safetensors.numpy.load_file(tmp_path / "out" / "adapter_model.safetensors")
  assert found.keys() == added.keys()
  for name, tensor in added.items():
    np.testing.assert_array_equal(found[name], tensor, err_msg=name)
  said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
  assert said["target_modules"] == ["down_proj", "q_proj"] and said["r"] == 3
  assert said["lora_alpha"] / 3 == pytest.approx(scale) and not said["use_rslora"]
  assert convert(base, tmp_path / "out", tmp_path / "again") == 0
  _, again = experiment.restore_params(str(tmp_path / "again"), Partitioner(data=1, num_devices=1))
  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6), again, params)


@pytest.mark.parametrize("changes, words", [
    (dict(peft_type="IA3"), 'peft_type = \'IA3\' has no counterpart here: choose adapters with peft_type = "LORA"'),
    (dict(bias="all"), "bias = 'all'"), (dict(use_dora=True), "use_dora = True"),
    (dict(modules_to_save=["lm_head"]), "modules_to_save = ['lm_head']"), (dict(rank_pattern={"q": 2}), "rank_pattern"),
    (dict(r=0), "r = 0 must be above 0"), (dict(r="3"), "r = '3' must be"), (dict(lora_alpha=-1), "lora_alpha = -1"),
    (dict(r=4), "is [8, 3], and [8, 4]")])
def test_what_has_no_counterpart_is_refused_in_a_line(base, tmp_path, changes, words, capsys):
  assert convert(base, write(tmp_path / "in", adapters(base[2]), **changes), tmp_path / "run") == 1
  line = capsys.readouterr().err.splitlines()[-1]
  assert words in line and str(tmp_path / "in") in line
  assert not (tmp_path / "run" / "config.gin").exists()


def test_tensors_of_other_layers_are_refused(base, tmp_path, capsys):
  """One kernel's missing in one layer; one of no kernel; none at all."""
  added = adapters(base[2])
  missing = {name: tensor for name, tensor in added.items() if "layers.1.mlp" not in name}
  assert convert(base, write(tmp_path / "missing", missing), tmp_path / "run") == 1
  assert "layers.1.mlp.down_proj.lora_B.weight is missing" in capsys.readouterr().err.splitlines()[-1]
  other = added | {"base_model.model.lm_head.lora_A.weight": np.zeros((3, 8), np.float32)}
  assert convert(base, write(tmp_path / "other", other), tmp_path / "run") == 1
  assert "lm_head.lora_A.weight is none of this model's" in capsys.readouterr().err.splitlines()[-1]
  assert convert(base, write(tmp_path / "none", {"a": np.zeros(2, np.float32)}), tmp_path / "run") == 1
  assert "name the adapters of a model of Llama's family" in capsys.readouterr().err.splitlines()[-1]


def test_flags_that_do_not_go_together(base, tmp_path, capsys):
  folder, _, _ = base
  assert cli.main(["convert", "--from=peft", f"--input={folder}/llama", f"--model_dir={tmp_path}/run"]) == 2
  assert "--from=peft needs --base=DIR" in capsys.readouterr().err.splitlines()[-1]
  assert cli.main(["convert", "--from=huggingface", f"--base={folder}/base", f"--input={folder}/llama",
                   f"--model_dir={tmp_path}/run"]) == 2
  assert cli.main(["export", "--format=peft", f"--model_dir={folder}/base", f"--output={tmp_path}/out"]) == 1
  assert "--format=peft is for adapters" in capsys.readouterr().err.splitlines()[-1]
