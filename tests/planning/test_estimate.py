"""Checks the formulas of `gpt4x plan`: each part against its own count, the sums against the TPU compiler's.

No figure here comes from the formulas themselves, so a doubled constant is seen. benchmarks/RESULTS.md has the
compiler's figures.
"""

import functools
import json

import pytest

from gpt4x import cli
from gpt4x.planning import compiler

GIB = 2**30


@pytest.fixture(name="plan")
def _plan(monkeypatch, capsys):
  """`gpt4x plan --json` by formula, for a shipped experiment and changes to it."""
  def no_compiler(_):
    raise ImportError("libtpu")
  monkeypatch.setattr(compiler, "topology_devices", no_compiler)

  @functools.cache
  def plan(experiment, topology, *flags):
    assert cli.main(["plan", f"--gin_file=experiments/{experiment}.gin", f"--topology={topology}", "--json",
                     *flags]) == 0
    return json.loads(capsys.readouterr().out)
  return plan


def remat(policy):
  return f"--gin.TransformerConfig.remat='{policy}'"


# dense_70b on 32 chips that split parameters and batch alike: two rows of 2,048 tokens a chip, as much memory.
DENSE = "dense_70b", "v5p:2x4x4"
TOKENS, EMBED, LAYERS, VOCABULARY, HEADS = 2 * 2048, 8192, 80, 32768, 64
LAYER = EMBED * (2 * HEADS * 128 + 2 * 8 * 128) + 3 * EMBED * 28672  # Queries, output, keys, values; a gated MLP.
PARAMETERS = LAYERS * LAYER + 2 * VOCABULARY * EMBED + (2 * LAYERS + 1) * EMBED
STREAM = TOKENS * EMBED  # Elements of the residual stream.
HIDDEN = TOKENS * 2 * 28672  # Inside the MLP, and in its gate.
CHUNK_OF_SCORES = TOKENS * 4096 * HEADS * 512 / 2048  # Queries come by 512.
SCORES = TOKENS * HEADS * (512 * (2048 + 512) + 512 * (2048 + 1024) + 512 * (2048 + 1536) + 512 * 4096) / 2048

near = functools.partial(pytest.approx, rel=1e-3)


@pytest.mark.parametrize("policy, kept", [
    ("full", 2 * STREAM),  # What goes into a layer, in bfloat16.
    ("dots_no_batch", 2 * (8 * STREAM + HIDDEN)),  # What comes out of each product with a kernel.
    ("none", 2 * (12 * STREAM + 3 * HIDDEN + 2 * CHUNK_OF_SCORES)),
])
def test_temporaries(plan, policy, kept):
  gradients = 4 * PARAMETERS / 32
  gathered = 2 * 2 * PARAMETERS / LAYERS  # The kernels of this layer and of the next, in bfloat16.
  at_work = 10 * CHUNK_OF_SCORES + 2 * (12 * STREAM + 3 * HIDDEN)  # Scores in both precisions, and their gradients.
  found = plan(*DENSE, remat(policy))
  assert found["params"] == PARAMETERS
  assert found["memory"]["temporaries"] == near(gradients + gathered + LAYERS * kept + at_work)


def test_logits_that_are_the_most_of_a_step(plan):
  large = 64 * VOCABULARY
  more = 2 * (large - VOCABULARY) * EMBED
  found = plan(*DENSE, f"--gin.TransformerConfig.vocab_size={large}")
  logits = 10 * TOKENS * large  # Two copies in float32, one in bfloat16.
  assert found["memory"]["temporaries"] == near(
      4 * (PARAMETERS + more) / 32 + 4 * (PARAMETERS + more) / LAYERS + LAYERS * 2 * STREAM + logits)
  # Each pass reads the kernels, the optimizer its share; six times logits in float32 are written or read.
  assert found["bytes"] - plan(*DENSE)["bytes"] == near(
      4 * 2 * more + 36 * more / 32 + 6 * 4 * TOKENS * (large - VOCABULARY))


def test_temporaries_of_microbatches(plan):
  """Half the tokens at once: all but gradients and kernels is halved."""
  one, two = (plan(*DENSE, f"--gin.train.microbatches={count}")["memory"]["temporaries"] for count in (1, 2))
  constant = 4 * PARAMETERS / 32 + 4 * PARAMETERS / LAYERS
  assert two - constant == near((one - constant) / 2)


def test_an_mlp_without_a_gate(plan):
  params = PARAMETERS - LAYERS * EMBED * 28672
  found = plan(*DENSE, "--gin.TransformerConfig.activation='gelu'", "--gin.TransformerConfig.mlp_dim=28672")
  assert found["params"] == params
  assert found["memory"]["temporaries"] == near(
      4 * params / 32 + 4 * params / LAYERS + LAYERS * 2 * STREAM
      + 10 * CHUNK_OF_SCORES + 2 * (12 * STREAM + 3 * HIDDEN / 2))


def test_arithmetic(plan):
  """A third forward pass where all is recomputed, a tenth of the whole where all but products is."""
  none, some, full = (plan(*DENSE, remat(policy)) for policy in ("none", "dots_no_batch", "full"))
  each = none["flops_per_token"] * none["tokens_per_step"] / 32
  assert each < none["flops"] < 1.01 * each  # The step also computes some scores that the causal mask hides.
  assert full["flops"] == near(none["flops"] * 4 / 3)
  assert some["flops"] == near(none["flops"] * 3.3 / 3)
  assert none["seconds"]["arithmetic"] == near(none["flops"] / 459e12)


@pytest.mark.parametrize("policy, passes", [("none", 3), ("dots_no_batch", 4), ("full", 4)])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_memory_traffic(plan, policy, passes, microbatches):
  """Weights are read in every pass of every microbatch, activations are written and read as often as they are made."""
  owned = PARAMETERS / 32
  weights = microbatches * passes * 2 * PARAMETERS
  # The optimizer reads and writes parameters and two moments; gradients are written, summed and read.
  update = 2 * (4 + 4 + 4) * owned + 3 * 4 * owned
  activations = LAYERS * (60 * STREAM + 16 * HIDDEN + 64 * SCORES)
  logits = 24 * TOKENS * VOCABULARY
  found = plan(*DENSE, remat(policy), f"--gin.train.microbatches={microbatches}")
  assert found["bytes"] == near(weights + update + activations + logits)
  assert found["seconds"]["memory"] == near(found["bytes"] / 2.8e12)


@pytest.mark.parametrize("policy, passes", [("none", 2), ("full", 3)])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_what_is_sent(plan, policy, passes, microbatches):
  """Over 4 x 4 x 2 devices of two slices; a ring sends (n - 1) / n of what it gathers, twice that of what it sums."""
  found = plan("dense_70b", "v5p:2x2x4", "--slices=2", "--gin.Partitioner.slice=2", "--gin.Partitioner.data=2",
               "--gin.Partitioner.fsdp=4", "--gin.Partitioner.tensor=2", remat(policy),
               f"--gin.train.microbatches={microbatches}")
  norms = (2 * LAYERS + 1) * EMBED
  kernels = (PARAMETERS - norms) / 2 + norms  # Heads and MLPs are split over tensor, and never gathered over it.
  rows = 4 * 2048 * EMBED / microbatches  # 64 rows over 2 x 2 x 4.
  sent = {
      # Kernels are gathered for each pass in bfloat16, their gradients scattered once.
      "fsdp": microbatches * (passes + 1) * 2 * kernels * 3 / 4,
      # Gradients in float32 are summed over copies.
      "slice x data": 2 * 4 * ((PARAMETERS - norms) / 8 + norms / 4) * 3 / 4,
      # Attention and MLP each end with a sum over tensor, forward and backward.
      "tensor": microbatches * passes * LAYERS * 2 * (2 * 2 * rows) * 1 / 2,
  }
  assert found["traffic"] == {axes: near(amount) for axes, amount in sent.items()}
  # A chip has two links of 90 GB/s along each axis of the torus, and a share of the network between slices.
  assert found["seconds"]["network fsdp"] == near(sent["fsdp"] / 180e9)
  assert found["seconds"]["network tensor"] == near(sent["tensor"] / 180e9)
  assert found["seconds"]["network slice x data"] == near(sent["slice x data"] / 6.25e9)


def test_axes_that_need_several_rings(plan):
  """32 devices lie along all three axes of a 2 x 4 x 4 torus, 8 along two."""
  whole = plan(*DENSE)
  assert whole["seconds"]["network fsdp"] == near(whole["traffic"]["fsdp"] / (3 * 180e9))
  part = plan(*DENSE, "--gin.Partitioner.fsdp=8", "--gin.Partitioner.data=4")
  assert part["seconds"]["network fsdp"] == near(part["traffic"]["fsdp"] / (2 * 180e9))
  assert part["seconds"]["network data"] == near(part["traffic"]["data"] / 180e9)


@pytest.mark.parametrize("capacity", [1.25, None])
def test_a_mixture(plan, capacity):
  """mixture_8x7b on 2 x 8 chips: two rows a chip, an expert of each layer, two experts for each token."""
  found = plan("mixture_8x7b", "v5p:2x2x4", f"--gin.MoEConfig.capacity_factor={capacity}")
  embed, layers, tokens = 4096, 32, 2 * 2048
  expert = 3 * embed * 14336
  others = found["params"] - layers * 8 * expert
  kernels, owned = others + layers * expert, found["params"] / 16
  stream, hidden = tokens * embed, tokens * 2 * 2 * 14336
  queries = tokens * 32 * 512 * 4096 / 2048
  scores = tokens * 32 * 3328
  assert found["memory"]["temporaries"] == pytest.approx(
      4 * owned + 4 * kernels / layers + layers * 2 * stream + 10 * queries + 2 * (12 * stream + 3 * hidden), rel=0.02)
  assert found["bytes"] == pytest.approx(
      4 * 2 * kernels + 36 * owned + layers * (60 * stream + 16 * hidden + 64 * scores) + 24 * tokens * 32768, rel=0.02)
  # To the experts and back, forward, again and backward: each token twice, and room to spare if its size is fixed.
  assert found["traffic"]["expert"] == near(3 * 2 * layers * 2 * stream * 2 * (capacity or 1) * 7 / 8)


@pytest.mark.parametrize("experiment, topology, temporaries, roofline", [
    ("dense_70b", "v5p:2x4x4", 25.1, 5.06), ("mixture_8x7b", "v5p:2x2x4", 19.6, 1.21),
    ("mixture_1t", "v5p:4x8x8", 41.5, 5.87)])
def test_the_compiler_s_figures(plan, experiment, topology, temporaries, roofline):
  """To some 30%, as the formulas promise."""
  found = plan(experiment, topology)
  assert found["memory"]["temporaries"] / GIB == pytest.approx(temporaries, rel=0.3)
  assert found["roofline"] == pytest.approx(roofline, rel=0.2)
