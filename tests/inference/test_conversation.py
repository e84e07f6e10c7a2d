"""Conversations: what lies in the memory is what was said, and nothing is read twice."""

import dataclasses

import jax
import numpy as np
import pytest
import seqio

from gpt4x.data import chat_template, vocabularies
from gpt4x.data.chat_template import Template
from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.conversation import Conversation
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel

MODEL = LanguageModel(TransformerConfig(vocab_size=260, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=32,
                                        norm_position="pre", output_bias=True))
DATA = DatasetConfig("local_chat_bytes", {"targets": 200}, 2, "lm")
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module", name="params")
def _params():
  """Letters and blanks are drawn, and the end now and then: what is read is then what was written."""
  drawn = [1, *(3 + ord(letter) for letter in "abcdefghijklm ")]
  bias = np.full(260, -1e3, np.float32)
  bias[drawn] = 0
  place = lambda path, leaf: bias if "output_bias" in jax.tree_util.keystr(path) else 3 * leaf
  return jax.tree_util.tree_map_with_path(place, MODEL.init(jax.random.key(0)))


@dataclasses.dataclass(frozen=True)
class Made(Experiment):
  """An experiment whose parameters are at hand."""

  params: object = None

  def restore_params(self, model_dir, partitioner, step=None):
    return 0, self.params


@pytest.fixture(name="talk")
def _talk(params, tmp_path):
  vocabularies.save(seqio.ByteVocabulary(), tmp_path)

  def make(template=None, **options):
    if template:
      (tmp_path / "chat_template.jinja").write_text(template)
    return Conversation(str(tmp_path), Made(MODEL, DATA, params=params), **{"max_tokens": 9, **options})

  return make


def answer(params, messages, window=200, max_tokens=9, sampling=GREEDY):
  """By the engine alone, which reads the whole conversation anew."""
  vocabulary = seqio.ByteVocabulary()
  ids, _ = chat_template.encode(Template().pieces(messages, generation=True), vocabulary)
  engine = Engine(MODEL, window, vocabulary.eos_id, vocabulary.vocab_size, sampling, chunk_length=8)
  tokens = np.concatenate([piece.tokens for piece in engine(params, [ids], max_tokens)], 1)[0]
  ends = np.flatnonzero(tokens == vocabulary.eos_id)
  return vocabulary.decode(tokens[:ends[0] if ends.size else None].tolist())


def test_answers_are_those_of_a_model_that_reads_all_anew(talk, params):
  conversation, messages = talk(sampling=GREEDY), []
  for text in ("Hello", "What?", "And then, at last, what becomes of it?"):
    messages.append({"role": "user", "content": text})
    found = "".join(conversation.say(text))
    assert found == answer(params, messages)
    messages.append({"role": "assistant", "content": found})
  assert conversation.messages == messages


def test_a_turn_reads_what_is_new_alone(talk):
  conversation = talk(sampling=GREEDY)
  read = []
  for _ in range(4):
    list(conversation.say("Hi"))
    read.append(conversation.turns[-1].read)
  assert read[1:] == [len(b"\n<|user|>\nHi\n<|assistant|>\n")] * 3 and read[0] == read[1] - 1
  histories = [turn.history for turn in conversation.turns]
  written = [turn.written for turn in conversation.turns]
  assert all(later - earlier >= 26 for earlier, later in zip(histories, histories[1:])) and max(written) <= 9


def test_a_conversation_begins_anew(talk, params):
  conversation = talk(sampling=GREEDY)
  first = "".join(conversation.say("Hello"))
  list(conversation.say("More"))
  conversation.reset()
  assert "".join(conversation.say("Hello")) == first
  conversation.reset("Be kind")
  told = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hello"}]
  assert "".join(conversation.say("Hello")) == answer(params, told)


def test_an_answer_that_is_broken_off_is_forgotten(talk, params):
  conversation = talk(sampling=GREEDY, max_tokens=40)
  first = "".join(conversation.say("Hello"))
  next(conversation.say("Never mind"))
  messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": first},
              {"role": "user", "content": "Again"}]
  assert "".join(conversation.say("Again")) == answer(params, messages, max_tokens=40)


def test_draws_follow_from_the_seed(talk):
  texts = [["".join(talk(seed=seed).say("Hello"))] for seed in (0, 0, 1)]
  assert texts[0] == texts[1] != texts[2]


def test_a_template_of_the_run_ends_an_answer(talk):
  text = "{% for m in messages %}{{ m.content }}{{ 'e' if m.role == 'assistant' else '?' }}{% endfor %}"
  conversation = talk(text, max_tokens=60)
  found = "".join(conversation.say("Hello"))
  assert "e" not in found and conversation.turns[-1].read == len("Hello?")
  list(conversation.say("Hello"))
  assert conversation.turns[-1].read == len("Hello?"), "what ends the answer is known"


def test_prompts_in_both_directions_are_no_conversation(params, tmp_path):
  data = DatasetConfig("task", {"inputs": 8, "targets": 8}, 2, "prefix_lm")
  with pytest.raises(UserError, match="DatasetConfig.feature_converter = 'causal_lm'"):
    Conversation(str(tmp_path), Made(MODEL, data, params=params))


def test_a_prompt_goes_on_as_if_it_had_been_read_at_once(params):
  """In pieces of any length; the window is shorter than the text."""
  engine = Engine(MODEL, 24, None, segment_length=8, chunk_length=4)
  text = np.random.default_rng(0).integers(3, 250, 61).tolist()
  whole = engine.prefill(params, [text])
  parts = engine.prefill(params, [text[:5]])
  for start, stop in ((5, 6), (6, 25), (25, 61)):
    parts = engine.extend(params, parts, text[start:stop])
  np.testing.assert_allclose(parts.logits, whole.logits, atol=1e-4)
  next_of = lambda prefilled: engine.step(params, engine.start(params, prefilled))[0].tokens
  assert np.array_equal(next_of(parts), next_of(whole))
