"""Text between two others, and marks in prompts: what may be drawn, and what ends it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data import infilling, vocabularies
from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.row_mixture import RowMixture
from gpt4x.data.vocabularies import MarkedVocabulary, Marks
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.generate import Generator
from gpt4x.inference.sampling import Sampling
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from tests.models import tiny

VOCABULARY = MarkedVocabulary(Marks(spans=3)).held()
END = VOCABULARY.mark("<end>")
HOT = Sampling(temperature=1e9)  # Every id that may be drawn is.
TEXT = DatasetConfig("local_text_marked", {"targets": 16}, batch_size=1)
SPANS = DatasetConfig("local_text_spans", {"inputs": 10, "targets": 6}, 1, "prefix_lm")


@pytest.fixture(name="model_dir", scope="module")
def _model_dir(tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("model")
  vocabularies.save(VOCABULARY, model_dir)
  checkpoints = Checkpoints(str(model_dir), CheckpointConfig())
  checkpoints.save(0, {"params": jax.tree.map(jnp.asarray, tiny.random_params(MODEL))}, data_state={}, seed=0,
                   config_text="", wait=True)
  checkpoints.close()
  return str(model_dir)


MODEL = LanguageModel(TransformerConfig(vocab_size=288, num_layers=2, embed_dim=8, num_heads=2, mlp_dim=16,
                                        memory_length=8, tie_embeddings=False))
MIXTURE = RowMixture({"text": TEXT, "spans": SPANS})


def drawn(model_dir, dataset=TEXT, prompt="ab", count=600, **options):
  """Continuations of a prompt by a model that draws at random."""
  generator = Generator(model_dir, Experiment(MODEL, dataset), sampling=HOT, **options)
  return generator, list(generator.complete([generator.prompt(prompt)], num_samples=2, max_tokens=count, seed=1))


def test_a_middle_ends_with_its_mark(model_dir):
  generator, found = drawn(model_dir, suffix="yz")
  assert generator.prompt("ab").ids == infilling.prompt(VOCABULARY, "ab", "yz")
  tokens = np.concatenate([one.tokens for one in found])
  assert {one.finish_reason for one in found} == {"eos"} and all(one.tokens[-1] == END for one in found)
  assert tokens.max() == END and VOCABULARY.eos_id not in tokens, "no other mark, and no end of a document inside"


def test_text_that_goes_on_has_no_marks(model_dir):
  _, found = drawn(model_dir)
  assert np.concatenate([one.tokens for one in found]).max() < VOCABULARY.text.vocab_size
  assert {one.finish_reason for one in found} == {"eos"}


def test_marks_are_drawn_where_they_are_asked_for(model_dir):
  generator, found = drawn(model_dir, prompt="[S]a<extra_id_0>", marks=True)
  assert generator.prompt("[S]a<extra_id_0>").ids == VOCABULARY.encode_marked("[S]a<extra_id_0>")
  tokens = np.concatenate([one.tokens for one in found])
  assert (tokens > END).any() and tokens.max() < VOCABULARY.vocab_size
  assert any("<" in one.text for one in found)


def test_a_hidden_span_is_said_as_training_has_it(model_dir):
  """Inputs that see each other and not the mark of the span, which the text comes behind; against one forward pass."""
  hidden = VOCABULARY.span_id(0)
  generator, found = drawn(model_dir, dataset=SPANS, prompt="[R]ab", suffix="yz", marks=True, count=40)
  ids = generator.prompt("[R]ab").ids
  assert ids == [VOCABULARY.mark("[R]"), *VOCABULARY.encode("ab"), hidden, *VOCABULARY.encode("yz"), hidden]
  for one in found:
    assert max(one.tokens) < VOCABULARY.text.vocab_size and VOCABULARY.mark("[R]") not in one.tokens
    text = [0, *ids, *one.tokens]
    both_ways = np.arange(len(text)) < len(ids)  # The start, and all but the last mark.
    logits, _ = MODEL.logits(tiny.random_params(MODEL), np.array([text]), MODEL.initial_memory(1, 0),
                             np.ones((1, len(text)), np.int32), both_ways[None].astype(np.int32))
    expected = jax.nn.log_softmax(logits[0, len(ids):-1])
    np.testing.assert_allclose(one.log_probs[:5], [expected[i, token] for i, token in enumerate(one.tokens[:5])],
                               rtol=1e-4)


def test_prompts_are_read_as_their_part_was(model_dir):
  """Prompts with marks are inputs of examples, whose tokens see each other; others are documents."""
  both_ways = lambda dataset, **options: Generator(model_dir, Experiment(MODEL, dataset), **options)._bidirectional
  assert not both_ways(MIXTURE) and both_ways(MIXTURE, marks=True) and both_ways(SPANS)
  assert not both_ways(MIXTURE, suffix="z") and not both_ways(TEXT, marks=True)


@pytest.mark.parametrize("options", [{"suffix": "z"}, {"marks": True}])
def test_a_vocabulary_without_marks_is_refused(tmp_path, options):
  vocabularies.save(seqio.ByteVocabulary(), tmp_path)
  with pytest.raises(UserError, match="ByteVocabulary, has no marks"):
    Generator(str(tmp_path), Experiment(MODEL, DatasetConfig("local_text_bytes", {"targets": 16}, 1)), **options)
