"""Plans by formula, against counts written out, and by the TPU compiler where there is one."""

import dataclasses
import importlib.util
import json
import math

import pytest

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.compression.training_products import TrainingProducts
from gpt4x.errors import CommandError
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner, planning_for
from gpt4x.planning import collectives, compiler, estimate, plan, steps
from gpt4x.planning.chips import parse_topology
from gpt4x.training import optimizers
from gpt4x.training.step import TrainStep

CONFIG = TransformerConfig(
    vocab_size=512, num_layers=4, embed_dim=256, num_heads=4, mlp_dim=512, memory_length=128, positions="rotary",
    norm="rms", norm_position="pre", mlp_bias=False, activation="swiglu", tie_embeddings=False, dtype="bfloat16",
    remat="full")
STEP = steps.TrainingStep(TrainStep(LanguageModel(CONFIG), NextToken(), optimizers.adamw(1e-3)), batch_size=32,
                     segment_length=128, memory_length=128)


@pytest.mark.parametrize("text, slices, devices", [("v5p:2x2x4", 1, 16), ("v6e:4x4", 2, 32)])
def test_topologies(text, slices, devices):
  topology = parse_topology(text, slices)
  assert topology.num_devices == devices and topology.name == text


@pytest.mark.parametrize("text, words", [
    ("v5q:4x4x4", "did you mean v5"), ("v5p:4x4", "3 sizes, such as v5p:4x4x4"), ("v5p:4x0x4", "3 sizes"),
    ("v5e", "2 sizes")])
def test_wrong_topologies(text, words):
  with pytest.raises(CommandError, match=words):
    parse_topology(text)


def make(step=STEP, **mesh):
  topology = parse_topology("v5p:2x2x4")
  with planning_for(topology.num_devices):
    return plan.make(step, Partitioner(**mesh), topology, compiled=False)


def test_a_plan_by_formula():
  found = make(data=2, fsdp=4, tensor=2)
  params = CONFIG.num_params()
  norms = 9 * 256  # Split over fsdp alone, the rest over tensor too.
  assert found.params == params and found.devices == 16
  assert found.memory["params"] == pytest.approx(4 * ((params - norms) / 8 + norms / 4), rel=1e-6)
  assert found.memory["optimizer"] == pytest.approx(2 * found.memory["params"], abs=64)
  assert found.memory["memory"] == 4 * (32 / 8) * (128 / 2) * 256 * 2 + (32 / 8) * 128 * 4
  assert found.tokens_per_step == 32 * 128
  # Recomputed once: four forward passes instead of three; what is executed is not causal.
  assert found.flops > found.flops_per_token * found.tokens_per_step / 16 * 4 / 3
  assert found.mfu == pytest.approx(
      found.flops_per_token * found.tokens_per_step / (found.roofline * 16 * 459e12))
  assert found.roofline == max(found.seconds.values()) and found.compiled is None and found.advice is None
  assert set(found.traffic) == {"data", "fsdp", "tensor"} and not found.warnings
  assert json.loads(json.dumps(found.__dict__)) == found.__dict__


def test_products_of_eight_bits_take_half_the_time():
  """On chips that multiply int8 twice as fast; and a plan that changes sizes keeps the form of the model."""
  whole = make()
  for form, rounded in ((TrainingProducts(), 3), (TrainingProducts(gradients="none"), 1), (TrainingProducts("fp8"), 0)):
    model = LanguageModel(CONFIG, form)
    step = dataclasses.replace(STEP, train_step=dataclasses.replace(STEP.train_step, model=model))
    assert step.replace_config(num_layers=2).part().model.form == form
    found = make(step)
    hidden = 2 * 4 * 256 * (4 * 256 + 3 * 512) * rounded  # Attention's four kernels, and the three of a gated MLP.
    share = hidden / CONFIG.flops_per_token(128, 128, training=True, causal=False)
    assert found.flops == whole.flops
    assert found.seconds["arithmetic"] == pytest.approx(whole.seconds["arithmetic"] * (1 - share / 2))


def test_splitting_what_was_copied_saves_memory_and_costs_traffic():
  copied, split = make(data=16), make(data=1, fsdp=16)
  assert split.memory["params"] < copied.memory["params"] / 15
  assert "fsdp" not in copied.traffic and split.traffic["fsdp"] > 0


def test_what_to_change_first():
  found = make(data=16)
  full = lambda **memory: plan.dataclasses.replace(found, memory={**found.memory, **memory})
  assert "remat" in plan._advice(plan.dataclasses.replace(full(temporaries=1e12), remat="none"), STEP)
  assert "microbatches = 2" in plan._advice(full(temporaries=1e12), STEP)
  assert "Partitioner.fsdp" in plan._advice(full(optimizer=1e12), STEP)
  assert plan._advice(full(), STEP) is None


def test_large_copies_are_told(monkeypatch):
  monkeypatch.setattr(plan, "LARGE", 100)
  warnings = make(data=1, fsdp=8, tensor=2).warnings
  assert len(warnings) == 3 and all("scale" in warning and "2 copies" in warning for warning in warnings)


def test_extrapolation_is_a_line():
  cost = lambda n, **traffic: compiler.Cost(10 + 3 * n, 5 * n, 1 + n, {"fsdp": 7 * n, **traffic})
  one, two = cost(1), cost(2, tensor=2)
  assert one.extrapolate(two, 5) == compiler.Cost(25, 25, 6, {"fsdp": 35, "tensor": 8})


def test_large_collectives_are_told():
  found = [collectives.Collective("all-gather", "fsdp", 4, 2**30)]
  assert plan._surprises(found, 2**30 - 1) == [
      "a collective larger than any parameter or activation: all-gather over fsdp, 1.00 GiB"]
  assert not plan._surprises(found, 2**30)


FLAGS = ["plan", "--gin_file=experiments/stdlib_tiny.gin", "--topology=v5p:2x2x1", "--gin.Partitioner.fsdp=2"]


def test_the_command_without_the_compiler(monkeypatch, capsys):
  monkeypatch.setattr(compiler, "topology_devices", _no_libtpu)
  assert cli.main(FLAGS) == 0
  text = capsys.readouterr().out
  assert "2,066,496" in text and "install the extra tpu" in text and "billion tokens a day" in text
  assert cli.main([*FLAGS, "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["mesh"] == {"slice": 1, "data": 2, "fsdp": 2, "expert": 1, "tensor": 1}


def test_the_search_ranks_what_fits(monkeypatch, capsys):
  monkeypatch.setattr(compiler, "topology_devices", _no_libtpu)
  assert cli.main([*FLAGS, "--search", "--json"]) == 0
  plans = json.loads(capsys.readouterr().out)
  assert all(math.prod(found["mesh"].values()) == 4 for found in plans)
  mfus = [round(found["mfu"], 3) for found in plans]
  assert mfus == sorted(mfus, reverse=True)
  assert {found["remat"] for found in plans} == {"none", "dots_no_batch", "full"}


def test_a_plan_needs_neither_data_nor_codecs(monkeypatch, capsys, tmp_path):
  """Of an experiment whose vocabulary is made of codecs and of text that are not here."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  monkeypatch.setattr(compiler, "topology_devices", _no_libtpu)
  assert cli.main(["plan", "--gin_file=experiments/multimodal_8x7b.gin", "--topology=v5p:2x2x4", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["params"] > 47e9 and sum(found["memory"].values()) < 0.9 * found["hbm"]
  assert list(tmp_path.iterdir()) == []


def _no_libtpu(topology):
  raise ImportError("libtpu")


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed (extra tpu)")


def test_scores_of_the_fused_kernel_stay_on_the_chip():
  fused = STEP.replace_config(attention_kernel="flash")
  xla, flash = (make(step, data=2, fsdp=4, tensor=2) for step in (STEP, fused))
  scores = 4 * 128 * 256 * 2  # One layer's: 4 rows, 128 queries, 256 keys, 2 heads.
  assert xla.seconds["memory"] - flash.seconds["memory"] == pytest.approx(4 * 64 * scores / 2.8e12, rel=0.01)
  assert flash.memory["temporaries"] < xla.memory["temporaries"]


@needs_compiler
def test_the_compiler_agrees_with_the_formulas():
  """State exactly, arithmetic to a fifth; and the step runs over the axes that the mesh has."""
  topology = parse_topology("v5p:2x2x4")
  with planning_for(compiler.topology_devices(topology)):
    partitioner = Partitioner(data=2, fsdp=4, tensor=2)
    found = plan.make(STEP, partitioner, topology, compiled=True)
    state = estimate.device_bytes(STEP.state(partitioner))
  assert sum(found.memory[name] for name in ("params", "optimizer", "memory")) == pytest.approx(state, rel=0.01)
  assert found.flops == pytest.approx(make(data=2, fsdp=4, tensor=2).flops, rel=0.2)
  assert {"fsdp", "tensor"} <= set(found.traffic) and found.compiled > 0


@needs_compiler
@pytest.mark.parametrize("experiment, topology, params", [
    ("mixture_1t", "v5p:4x8x8", 1e12), ("mixture_1.8t", "v5p:8x8x8", 1e12), ("multimodal_8x7b", "v5p:2x2x4", 47e9)])
def test_what_is_planned_fits(experiment, topology, params):
  """The whole training step, with a tenth of every chip's memory to spare."""
  topology = parse_topology(topology)
  with planning_for(compiler.topology_devices(topology)):
    config = reading.new_run([f"experiments/{experiment}.gin"])
    step, partitioner = steps.TrainingStep.of(config), config.partitioner
    memory = compiler.memory(step.lower(partitioner))
  assert step.config.num_params() > params and partitioner.mesh.size == topology.num_devices
  assert sum(memory.values()) < 0.9 * topology.chip.hbm
