"""Text by the model of a directory: one prompt as it is drawn, or many, each as if it were alone."""

import gin
import jax
import jax.numpy as jnp
import pytest
import seqio

from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data import vocabularies
from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.generate import generate, Generator
from gpt4x.inference.sampling import Sampling
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from tests.models import tiny

PROMPTS = ["memöry ", "a", "", "memöry ", "segments attend to their past " * 3]


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
  """A directory with a model of random parameters, and its experiment."""
  model_dir = tmp_path_factory.mktemp("model")
  model = LanguageModel(TransformerConfig(vocab_size=259, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=16,
                                          memory_length=8, tie_embeddings=False))
  vocabularies.save(seqio.ByteVocabulary(), model_dir)
  checkpoints = Checkpoints(str(model_dir), CheckpointConfig())
  params = jax.tree.map(jnp.asarray, tiny.random_params(model))
  checkpoints.save(0, {"params": params}, data_state={}, seed=0, config_text="", wait=True)
  checkpoints.close()
  return str(model_dir), Experiment(model, DatasetConfig("local_text_bytes", {"targets": 16}, batch_size=1))


def complete(model, prompts, **options):
  """What matters of each continuation. The model hardly tells its contexts apart, so text alone would prove little."""
  return [(one.prompt, one.sample, one.text, one.tokens, one.finish_reason)
          for one in Generator(*model).complete(prompts, **{"max_tokens": 24, "seed": 3} | options)]


def test_a_continuation_does_not_depend_on_what_is_generated_beside_it(model):
  together = complete(model, PROMPTS, num_samples=2)
  assert [one[:2] for one in together] == [(prompt, sample) for prompt in PROMPTS for sample in range(2)]
  for number, prompt in enumerate(PROMPTS):
    assert complete(model, [prompt], num_samples=2) == together[2 * number:2 * number + 2]
    assert complete(model, [prompt]) == together[2 * number:2 * number + 1]
    assert "".join(generate(*model, prompt, max_tokens=24, seed=3)) == together[2 * number][2]
  assert complete(model, PROMPTS, num_samples=2, batch_size=3) == together
  assert complete(model, PROMPTS[::-1]) == together[::-1][1::2]


def test_what_should_differ_does(model):
  """Samples, seeds and prompts draw numbers of their own: at such a temperature they alone decide."""
  hot = Generator(*model, sampling=Sampling(temperature=1e9))
  tokens = [tuple(one.tokens) for seed, samples in ((3, 3), (4, 1))
            for one in hot.complete(PROMPTS[:3], num_samples=samples, max_tokens=8, seed=seed)]
  assert len({one[:4] for one in tokens}) == len(tokens) == 12


def test_stops_and_lengths(model):
  free, = complete(model, PROMPTS[:1])
  stop = free[2][3:6]
  assert stop and free[4] == "length" and len(free[3]) == 24
  text, tokens, reason = complete(model, PROMPTS[:1], stop=["never drawn", stop])[0][2:]
  assert (text, reason) == (free[2][:free[2].index(stop)], "stop") and tokens == free[3][:len(tokens)]
  assert "".join(generate(*model, PROMPTS[0], max_tokens=24, seed=3, stop=[stop])) == text
  shorter, = complete(model, PROMPTS[:1], max_tokens=5)
  assert shorter[3] == free[3][:5] and shorter[4] == "length"


def test_the_window_is_gin_s(model):
  def same(**options):
    generator = Generator(*model, sampling=Sampling(temperature=0), **options)
    return [one.tokens for one in generator.complete(PROMPTS, max_tokens=24)]

  with gin.unlock_config():
    gin.bind_parameter("generate.window", 2)
  assert same() == same(window=2) != same(window=24)


def test_nothing_to_continue(model):
  assert complete(model, []) == []


def test_an_empty_stop(model):
  with pytest.raises(UserError, match="stop text is empty"):
    complete(model, ["a"], stop=[""])


class Unfit(seqio.ByteVocabulary):
  """Knows no ü, whose id is 0, and has an id for ö that the model has no embedding for."""

  unk_id = 0

  def _encode(self, s):
    return [0 if character == "ü" else 300 if character == "ö" else ord(character) + 3 for character in s]


def test_a_window_without_positions(model):
  with pytest.raises(UserError, match="^generate.window = 0 must be at least 1"):
    Generator(*model, window=0)


def test_a_character_that_the_vocabulary_does_not_know(model, monkeypatch):
  """The model has learnt what is unknown, as any other id."""
  monkeypatch.setattr(vocabularies, "load", lambda _: Unfit())
  assert len(next(Generator(*model).complete(["about ü"], max_tokens=3)).tokens) == 3


@pytest.mark.parametrize("prompt, words", [
    ("about ö", "the prompt has the token 300, and the model knows 0 to 258: change the prompt, or copy")])
def test_a_prompt_that_the_model_cannot_read(model, monkeypatch, prompt, words):
  """It is told of before the checkpoint is read, even if it is the last of many."""
  monkeypatch.setattr(vocabularies, "load", lambda _: Unfit())
  monkeypatch.setattr(Experiment, "restore_params", lambda *_: pytest.fail("has been read"))
  with pytest.raises(UserError, match=words):
    next(Generator(*model).complete(["fine", prompt]))
  with pytest.raises(UserError, match=words):
    next(generate(*model, prompt))
