"""Every shipped gin file: experiments mean what they meant, and models have the sizes that their papers publish."""

import difflib
import pathlib
import re

import pytest

from gpt4x import configuration
from gpt4x.media.layout import Layout, Tokens
from gpt4x.models.config import TransformerConfig

GOLDEN = pathlib.Path(__file__).parent / "golden"
EXPERIMENTS = sorted((configuration.SHIPPED / "experiments").glob("*.gin"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_means_what_it_meant(path):
  """The whole configuration, against a file; a wanted change is made by writing the new text there."""
  configuration.load(["runs/train.gin", f"experiments/{path.name}"], ["LocalText.files='corpus/*.txt'"])
  text = configuration.config_text()
  golden = GOLDEN / path.name
  expected = golden.read_text() if golden.exists() else ""
  assert text == expected, "".join(difflib.unified_diff(
      expected.splitlines(True), text.splitlines(True), str(golden), "now"))


@pytest.mark.parametrize("name, millions", [
    ("transformer_xl_enwik8", 41), ("transformer_xl_wt103", 151)])
def test_model_has_its_published_size(name, millions):
  configuration.load([f"models/{name}.gin"], partial=True)
  assert TransformerConfig().num_params() / 1e6 == pytest.approx(millions, rel=0.01)


KINDS = ("dense", "mixture", "multimodal")
FAMILY = sorted(path for kind in KINDS for path in (configuration.SHIPPED / "models").glob(f"{kind}_*"))


@pytest.mark.parametrize("path", FAMILY, ids=lambda path: path.stem)
def test_a_header_tells_the_model(path):
  """Its parameters and FLOPs, to the digits given."""
  configuration.load([f"models/{path.name}"], partial=True)
  config, header = TransformerConfig(), "".join(path.read_text().splitlines(True)[:2])
  units = {"million": 1e6, "billion": 1e9, "trillion": 1e12, "GFLOP": 1e9, "TFLOP": 1e12}
  told = [float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (" + "|".join(units) + ")", header)]
  length = int(re.search(r"being ([\d,]+)\.", header)[1].replace(",", ""))
  params = [config.num_params()] + ([config.num_active_params()] if config.moe else [])
  assert told == pytest.approx([*params, config.flops_per_token(length, length, training=True)], rel=1e-3)


@pytest.mark.parametrize("name, layout", [
    ("media_tiny", Layout(259, 1, image=Tokens((1000,)), audio=Tokens((1000, 1000)), video=Tokens((1000,)))),
    ("multimodal_8x7b", Layout(32768, 1, image=Tokens((64000,)), video=Tokens((64000,)), video_is_image=True,
                               audio=Tokens((1920,) * 8)))])
def test_a_model_of_media_has_room_for_its_vocabulary(name, layout):
  """And no more than what fills it up to a multiple of 128."""
  path = configuration.SHIPPED / "models" / f"{name}.gin"
  configuration.load([f"models/{name}.gin"], partial=True)
  assert TransformerConfig().vocab_size == -(-layout.size // 128) * 128
  assert f"{layout.size:,} ids" in path.read_text(), "its header"


def test_the_tiny_mixture_costs_what_the_tiny_model_does():
  """But for its routers."""
  configuration.load(["models/tiny_moe.gin"], partial=True)
  mixed = TransformerConfig()
  configuration.load(["models/tiny.gin"], partial=True)
  dense = TransformerConfig()
  routers = 2 * mixed.embed_dim * mixed.moe.num_experts
  assert mixed.flops_per_token(64) == dense.flops_per_token(64) + 2 * routers
  assert mixed.num_active_params() == dense.num_params() + routers and mixed.num_params() > 1.8 * dense.num_params()
