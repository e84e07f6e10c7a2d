"""Plans of decoding: bytes against counts written out, the cache against the engine's own, and the command."""

import dataclasses
import json
import math

import jax
import pytest

from gpt4x import cli
from gpt4x.compression.quantization import quantized_model
from gpt4x.inference.engine import Engine
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner, planning_for
from gpt4x.planning import compiler, decoding, estimate
from gpt4x.planning.chips import parse_topology
from gpt4x.planning.steps import DecodingStep
from tests.planning.test_plan import needs_compiler

CONFIG = TransformerConfig(
    vocab_size=512, num_layers=2, embed_dim=64, num_heads=4, mlp_dim=128, norm="rms", norm_position="pre",
    mlp_bias=False, tie_embeddings=False, dtype="bfloat16", scan_layers=False)
STEP = DecodingStep(LanguageModel(CONFIG), batch_size=8, window=32)
TOPOLOGY = parse_topology("v5e:2x4")
QKV, POSITIONS, OUT, MLP, TABLE = 3 * 64 * 64, 64 * 64, 64 * 64, 2 * 64 * 128, 512 * 64
KERNELS = 2 * (QKV + POSITIONS + OUT + MLP) + 2 * TABLE
OUTPUTS = 2 * (4 * 64 + 64 + 128 + 64) + 2 * 512  # Each has a scale.
PLAIN = 4 * (5 * 64 + 2 * 64)  # Norms, u and v: float32.
WINDOW = 2 * 2 * 8 * 32 * 64  # Keys and values.


def plans(step=STEP, **mesh):
  with planning_for(TOPOLOGY.num_devices):
    found = decoding.plans(step, Partitioner(**mesh), TOPOLOGY, compiled=False)
  return {one.form: one for one in found}


def test_bytes_of_one_device():
  """All on each of 8 devices but for the rows, which they split."""
  found = plans(dataclasses.replace(STEP, batch_size=64))
  params = {form: one.memory["params"] for form, one in found.items()}
  assert params["float"] == 2 * KERNELS + PLAIN
  assert params["int8"] == params["int8-all"] == KERNELS + 4 * OUTPUTS + PLAIN
  assert params["int4"] == KERNELS / 2 + 2 * KERNELS / 32 + 2 * 2 * OUT / 32 + PLAIN  # Heads of 16 have groups of 16.
  others = 8 * 32 * 4 + 4  # Documents of the window, and the index.
  constants = lambda size, *scales: 2 * (size * QKV + sum(scales))
  positions = 2 * 32 * 64  # R.
  assert found["float"].memory["cache"] == 2 * WINDOW + constants(2) + 2 * positions + others
  assert found["int8"].memory["cache"] == 2 * WINDOW + constants(1, 4 * 3 * 64) + 2 * positions + others
  assert found["int4"].memory["cache"] == 2 * WINDOW + constants(0.5 + 2 / 32) + 2 * positions + others
  rows = 4 * (WINDOW + positions) / 16  # A step for each row of K numbers.
  assert found["int8-all"].memory["cache"] == WINDOW + positions + rows + constants(1, 4 * 3 * 64) + others


def test_integers_of_four_bits_take_half_of_eight():
  shapes = [LanguageModel(CONFIG).declared[0]] + [quantized_model(STEP.model, form).declared[0]
                                                  for form in ("int8", "int4")]
  values = [sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.dtype.itemsize == 1)
            for tree in shapes]
  assert values == [0, KERNELS, KERNELS / 2]


def test_what_is_split():
  """Kernels over fsdp and heads or MLPs, the cache over rows and heads."""
  whole, split = plans(num_devices=None)["float"], plans(data=2, fsdp=2, tensor=2)["float"]
  assert split.memory["params"] == pytest.approx(whole.memory["params"] / 4, rel=0.02)
  assert split.memory["cache"] == pytest.approx(
      2 * WINDOW / 8 + 2 * 2 * QKV / 4 + 2 * 2 * 32 * 64 / 2 + 2 * 32 * 4, rel=0.001)
  assert set(split.traffic) == {"fsdp", "tensor"} and not whole.traffic
  # Each of 4 groups of rows gathers what a step reads of kernels over fsdp.
  read = 2 * (OUT + MLP) + TABLE
  assert split.traffic["fsdp"] == pytest.approx((2 * read + PLAIN) / 2 * 1 / 2, rel=0.02)
  assert split.traffic["tensor"] == 2 * 2 * 2 * (2 * 2 * 64) * 1 / 2


def test_what_a_step_reads_and_how_long_that_takes():
  found = plans(dataclasses.replace(STEP, batch_size=64))
  for form, size in (("float", 2), ("int8", 1)):
    used = 2 * (OUT + MLP) + TABLE  # Queries, keys, values and R are the cache's; of the embedding 8 rows are read.
    assert found[form].reads == pytest.approx(size * used + PLAIN + found[form].memory["cache"], rel=0.03)
    assert found[form].bytes == found[form].reads and found[form].limit == "memory"
    assert found[form].roofline == pytest.approx(found[form].bytes / 8.1e11)
    assert found[form].tokens_per_second == 64 / found[form].roofline
  # A product's two operations, for 8 rows; queries meet keys and R, and weights values.
  products, scores = 2 * (2 * (QKV + OUT + MLP) + TABLE), 2 * 2 * 3 * 32 * 64
  assert found["float"].flops == 8 * (products + scores)
  assert found["float"].seconds["arithmetic"] == found["int8"].seconds["arithmetic"] == pytest.approx(
      8 * (products + scores) / 197e12)
  assert found["int8-all"].seconds["arithmetic"] == pytest.approx(8 * (products / 393e12 + scores / 197e12))


def test_integers_that_become_arrays_are_moved_more_than_once():
  found = plans(dataclasses.replace(STEP, batch_size=64))["int4"]
  assert found.bytes - found.reads == pytest.approx(3 * 2 * (2 * (OUT + MLP) + TABLE), rel=0.01)
  assert found.memory["temporaries"] == 2 * 4 * 8 * 512 + 2 * TABLE


def test_of_few_tokens_only_their_experts_are_read():
  mixture = STEP.replace_config(moe=MoEConfig(num_experts=16, experts_per_token=2))
  few, many = (plans(dataclasses.replace(mixture, batch_size=rows))["float"] for rows in (1, 8))
  assert many.bytes - many.memory["cache"] - (few.bytes - few.memory["cache"]) == pytest.approx(
      2 * 2 * 16 * MLP * (1 - 2 / 16), rel=0.01)


@pytest.mark.parametrize("form, rows, changes", [
    ("int8-all", 8, {"scan_layers": True}), ("int4", 1, {"positions": "rotary", "num_kv_heads": 2})])
def test_the_cache_is_the_engine_s_own(form, rows, changes):
  """Its shapes and dtypes, and where its parts lie; and the step takes it as it is."""
  step = dataclasses.replace(STEP, batch_size=rows).replace_config(**changes)
  step = dataclasses.replace(step, model=quantized_model(step.model, form))
  partitioner = Partitioner(data=2, fsdp=2, tensor=2)
  params = jax.jit(step.model.init, out_shardings=jax.tree.map(
      lambda leaf: leaf.sharding, partitioner.place(*step.model.declared)))(jax.random.key(0))
  engine = Engine(step.model, step.window, None, partitioner=partitioner)
  theirs = engine.start(params, engine.prefill(params, [[1, 2, 3]] * rows)).cache
  with planning_for(jax.devices()):
    parts, lowered = step.parts(partitioner), step.lower(partitioner)
  ours, theirs = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding.shard_shape(leaf.shape)), cache)
                  for cache in (parts["cache"], theirs))
  assert ours == theirs
  compiled = lowered.compile()
  tokens = 4 * rows / (4 if rows > 1 else 1)
  assert compiled.memory_analysis().argument_size_in_bytes == estimate.device_bytes(parts) + tokens


FLAGS = ["plan", "--decode", "--gin_file=experiments/dense_70b.gin", "--topology=v5e:2x4", "--gin.Partitioner.fsdp=1",
         "--gin.Partitioner.tensor=8"]


@pytest.fixture
def no_compiler(monkeypatch):
  def topology_devices(_):
    raise ImportError("libtpu")
  monkeypatch.setattr(compiler, "topology_devices", topology_devices)


def test_the_command(no_compiler, capsys):
  """70 billion parameters on eight chips of 16 GiB: as bfloat16 they have no room."""
  assert cli.main([*FLAGS, "--batch_size=4"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "4 rows, window 4,096" in lines[0] and "install the extra tpu" in lines[1]
  assert [line.split()[0] for line in lines[3:]] == ["float", "int8", "int8-all", "int4"]
  assert ["DOES NOT FIT" in line for line in lines[3:]] == [True, False, False, False]
  assert cli.main([*FLAGS, "--json", "--gin.generate.window=512"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert all((one["window"], one["batch_size"], one["source"]) == (512, 16, "formula") for one in found)
  assert [one["fits"] for one in found] == [sum(one["memory"].values()) <= 0.9 * one["hbm"] for one in found]
  params = found[0]["memory"]["params"] * 8
  assert 2 * 69e9 < params < 2 * 72e9


def test_a_model_of_integers_is_planned(no_compiler, capsys):
  argv = ["plan", "--gin_file=experiments/stdlib_tiny.gin", "--topology=v5e:1x1",
          "--gin.LanguageModel.form=@Quantization()", "--gin.Quantization.stored=True"]
  assert cli.main(argv) == 1 and "no gradient moves" in capsys.readouterr().err
  assert cli.main([*argv, "--decode"]) == 0 and "window 192" in capsys.readouterr().out


@pytest.mark.parametrize("argv, status, words", [
    (["--gin_file=experiments/image_codec.gin"], 1, "has no text: name a run of a language model"),
    (["--gin_file=experiments/stdlib_tiny.gin", "--gin.generate.window=0"], 2, "generate.window = 0"),
    (["--gin_file=experiments/stdlib_tiny.gin", "--gin.Partitioner.tensor=3"], 1, "does not fit the 1 device"),
])
def test_mistakes_are_one_line(no_compiler, capsys, argv, status, words):
  assert cli.main(["plan", "--decode", "--topology=v5e:1x1", *argv]) == status
  message = capsys.readouterr().err
  assert message.count("\n") == 1 and words in message


def test_a_program_without_room_does_not_fit(monkeypatch):
  """The compiler refuses it, and the plan says so."""
  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")

  monkeypatch.setattr(DecodingStep, "lower", lambda *_: Lowered())
  monkeypatch.setattr(compiler, "step_cost", lambda *_: (compiler.Cost(1.0, 1.0, 1.0, {}), []))
  with planning_for(8):
    found = decoding.make(STEP, "float", Partitioner(), TOPOLOGY, compiled=True)
  assert not found.fits and found.spare <= 0 and "DOES NOT FIT" in decoding.describe([found])


@needs_compiler
def test_the_compiler_agrees_with_the_formulas():
  step = DecodingStep(LanguageModel(dataclasses.replace(
      CONFIG, embed_dim=512, num_heads=8, num_kv_heads=4, mlp_dim=2048, positions="rotary", num_layers=4)), 8, 1024)
  with planning_for(compiler.topology_devices(TOPOLOGY)):
    partitioner = Partitioner(data=2, tensor=4)
    found = decoding.plans(step, partitioner, TOPOLOGY, compiled=True)
    expected = decoding.plans(step, partitioner, TOPOLOGY, compiled=False)
  for one, other in zip(found, expected):
    assert math.isclose(one.memory["batch"], 0, abs_tol=1e5)  # Beyond what is counted.
    assert one.reads < one.bytes < 2.5 * other.bytes and set(one.traffic) == {"tensor"}
