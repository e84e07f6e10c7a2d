"""Requests in the slots of one engine: none depends on the others, and every slot comes back."""

import math
import random
import threading

import jax
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.speculation import PromptLookup
from gpt4x.partitioning import Partitioner
from gpt4x.serving.contract import Failed, Finished, Overloaded
from gpt4x.serving.prefixes import Prefixes
from tests.serving.served import answered, ask, COLD, Collected, draft, EXPERIMENT, made, MODEL, params, WARM

PENALTIES = Sampling(1.5, top_k=9, top_p=0.9, min_p=0.01, presence_penalty=0.3, frequency_penalty=0.2,
                     repetition_penalty=1.2, bias=((3 + ord("k"), 2.0),))
LONG = "abcdefghijklm " * 12


@pytest.fixture(scope="module", name="model")
def _model():
  model = made()
  model.start()
  yield model
  model.stop()


@pytest.fixture(scope="module", name="expected")
def _expected(model):
  """What each of some requests comes to, alone."""
  return [answered(model, **one) for one in requests()]


def requests():
  return [dict(text=text, sampling=one, seed=seed, max_tokens=count) for seed, (text, one, count) in enumerate([
      ("", WARM, 30), ("abc", COLD, 17), (LONG, PENALTIES, 40), (LONG + "x", WARM, 1), ("b", PENALTIES, 33),
      (LONG[5:], COLD, 9), ("abc", WARM, 25), ("k" * 64, WARM, 12)])]


def same(found, expected, atol=1e-4):
  assert found.text == expected.text and [one.id for one in found.tokens] == [one.id for one in expected.tokens]
  np.testing.assert_allclose([one.log_prob for one in found.tokens], [one.log_prob for one in expected.tokens],
                             atol=atol)  # Rows beside and the ring's place decide in which order is summed.


def test_requests_together_are_what_each_is_alone(model, expected):
  order = list(enumerate(requests()))
  for seed in range(3):
    random.Random(seed).shuffle(order)
    asked = [(number, ask(model, **one)) for number, one in order]
    for number, one in asked:
      assert isinstance(one.end(), Finished)
      same(one, expected[number])


def test_nothing_is_compiled_for_requests(model, expected):
  """Of any length, with log-probabilities and without, embedded or continued."""
  before = model.figures()["compilations"]
  for length in (0, 1, 15, 16, 17, 63, 64, 65, 130):
    answered(model, "a" * length, top=3, prompt_log_probs=bool(length % 2), sampling=PENALTIES)
    model.embed([[5] * max(length, 1)])
  assert model.figures()["compilations"] == before == 0


def test_the_seed_and_the_sample_tell_requests_apart(model):
  texts = {answered(model, "abc", 30, Sampling(5.0), seed=seed, sample=sample).text
           for seed in range(3) for sample in range(3)}
  assert len(texts) == 9


def test_log_probabilities_are_the_model_s(model):
  found = answered(model, "abca", 6, COLD, top=4, prompt_log_probs=True)
  ids = [0, *model.encode("abca"), *(one.id for one in found.tokens)]
  logits, _ = MODEL.logits(params(), np.array([ids]), MODEL.initial_memory(1, model.window), window=model.window)
  log_probs = np.asarray(jax.nn.log_softmax(logits))[0]
  for place, one in enumerate([*found.prompted, *found.tokens]):
    assert one.id == ids[place + 1]
    assert one.log_prob == pytest.approx(log_probs[place, one.id], abs=1e-4)
    assert [token for token, _ in one.top] == np.argsort(-log_probs[place], kind="stable")[:4].tolist()
    np.testing.assert_allclose([value for _, value in one.top], np.sort(log_probs[place])[::-1][:4], atol=1e-4)


def test_a_long_prompt_s_log_probabilities_come_from_all_its_pieces(model):
  text = LONG[:150]
  found = answered(model, text, 0, prompt_log_probs=True)
  ids = model.encode(text)
  logits, _ = MODEL.logits(params(), np.array([[0, *ids]]), MODEL.initial_memory(1, model.window), window=model.window)
  expected = np.asarray(jax.nn.log_softmax(logits))[0, np.arange(150), ids]
  np.testing.assert_allclose([one.log_prob for one in found.prompted], expected, atol=1e-4)
  assert found.finished == Finished("length", 150, 0, 0) and not found.tokens


def test_what_begins_alike_is_read_once_and_says_the_same():
  model, other = made(), made(prefix_bytes=0)
  for one in (model, other):
    one.start()
  first = answered(model, LONG, 20)
  again = answered(model, LONG, 20)
  more = answered(model, LONG + "zz", 20)
  assert (first.finished.cached_tokens, again.finished.cached_tokens, more.finished.cached_tokens) == (0, 128, 128)
  same(again, first)
  same(answered(other, LONG, 20), first)
  fresh = answered(other, LONG + "zz", 20)
  assert fresh.finished.cached_tokens == 0
  same(more, fresh)
  ahead = "b" + LONG[1:]  # The end alone is alike.
  assert answered(model, ahead, 5).finished.cached_tokens == 0
  for one in (model, other):
    one.stop()


def test_snapshots_have_a_budget():
  leaf = np.zeros(100, np.float32)
  prefixes = Prefixes(4, 1000)
  for first in range(3):
    prefixes.keep([first] * 4, {"a": leaf})
  assert prefixes.size == 800
  assert [prefixes.find([first] * 5)[0] for first in range(3)] == [0, 4, 4]
  prefixes.find([1] * 5)  # Used last: the other goes.
  prefixes.keep([9] * 8, {"a": leaf})
  assert [prefixes.find([first] * 9)[0] for first in (1, 2, 9)] == [4, 0, 8]
  prefixes.keep([7] * 3, {"a": leaf})  # No border.
  prefixes.keep([8] * 4, {"a": np.zeros(1000)})  # More than all.
  assert prefixes.find([8] * 5) == (0, None) and prefixes.size == 800
  assert prefixes.find([1] * 4) == (0, None)  # A token must be left to be read.


def test_stops_and_the_end_of_a_document(model, expected):
  whole = answered(model, "abc", 200, seed=11)
  assert whole.finished.reason == "stop" and whole.tokens[-1].id == 1  # The end was drawn.
  part = whole.text[7:10]
  found = answered(model, "abc", 200, seed=11, stop=(part, "never"))
  assert found.text == whole.text[:whole.text.index(part)] and found.finished.reason == "stop"
  cut = answered(model, "abc", 5, seed=11)
  assert cut.finished == Finished("length", 3, 5, 0) and len(cut.tokens) == 5


def test_cancelled_requests_give_their_slots_back(model):
  for seed in range(4):
    asked = [ask(model, "a", 10**6, Sampling(0.0, bias=((1, -1e9),)), seed=seed) for _ in range(6)]
    first = asked[0].events.get(timeout=60)  # One is at it, others wait.
    assert first.tokens
    for one in asked:
      one.ticket.cancel()
  assert isinstance(answered(model, "abc", 3).finished, Finished)  # Behind all of them.
  assert (model.figures()["running"], model.figures()["waiting"]) == (0, 0)


def test_a_cancelled_request_hears_nothing_more(model):
  one = ask(model, "a", 10**6, Sampling(0.0, bias=((1, -1e9),)))
  one.events.get(timeout=60)
  one.ticket.cancel()
  answered(model, "abc", 3)
  seen = one.events.qsize()
  answered(model, "abc", 30)
  assert one.events.qsize() == seen


def test_too_many_requests_are_refused_at_once(model):
  forever = Sampling(0.0, bias=((1, -1e9),))
  asked = [ask(model, "a", 10**6, forever) for _ in range(3 + 8)]
  with pytest.raises(Overloaded) as refused:
    for _ in range(3):
      asked.append(ask(model, "a", 10**6, forever))
  assert refused.value.retry_after > 0
  asked[-1].ticket.cancel()  # A place in the queue is free again.
  asked.append(ask(model, "a", 1))
  for one in asked[:-1]:
    one.ticket.cancel()
  assert isinstance(asked[-1].end(), Finished)


def test_who_cannot_be_told_is_forgotten(model):
  def broken(event):
    raise RuntimeError("gone")

  asked = Collected()
  model._batcher.submit(ask(model, "a", 1).ticket.request, broken)
  assert isinstance(answered(model, "abc", 3).finished, Finished)
  assert model.figures()["running"] == 0 and asked.text == ""


def test_a_failure_ends_those_that_it_hit_and_the_next_go_on(model, monkeypatch):
  engine, step = model._engine, model._engine.step

  def fails(*args):
    monkeypatch.setattr(engine, "step", step)
    raise RuntimeError("a device is gone")

  expected = answered(model, "abc", 9)
  monkeypatch.setattr(engine, "step", fails)
  failed = answered(model, "secret", 9)
  assert isinstance(failed.finished, Failed) and "secret" not in failed.finished.message
  same(answered(model, "abc", 9), expected)


def test_without_slots_nothing_is_taken_any_more(monkeypatch):
  """And nobody waits for ever."""
  model = made(slots=1)
  model.start()

  def fails(*args):
    raise RuntimeError("the device is gone")

  for name in ("step", "empty"):
    monkeypatch.setattr(model._engine, name, fails)
  monkeypatch.setattr(threading, "excepthook", lambda _: None)
  assert isinstance(answered(model, "a", 9).finished, Failed)
  model._batcher._thread.join(60)
  assert not model.ready()
  with pytest.raises(Overloaded):
    ask(model, "a")


def test_stopping_ends_what_is_under_way():
  model = made(slots=1)
  model.start()
  asked = [ask(model, "a", 10**6, Sampling(0.0, bias=((1, -1e9),))) for _ in range(2)]
  asked[0].events.get(timeout=60)
  model.stop()
  assert all(isinstance(one.end(), Failed) for one in asked) and not model.ready()
  with pytest.raises(Overloaded):
    ask(model, "a")


@pytest.mark.parametrize("propose", [PromptLookup, draft], ids=["from the text", "by another model"])
def test_guesses_change_nothing(propose):
  """Alone, and with another that comes on the way; whether they pay or not. Several tokens at once are rounded
  otherwise than one after the other."""
  model, plain = made(propose=propose(), slots=2), made(slots=2)
  for one in (model, plain):
    one.start()
  for pays in (0.0, 100.0):
    model._batcher._guessing.pays = pays
    for one in requests()[:5]:
      same(answered(model, **one), answered(plain, **one), 1e-3)
    both = [ask(model, **one) for one in requests()[:3]]
    for found, one in zip(both, requests()):
      found.end()
      same(found, answered(plain, **one), 1e-3)
  repeated = answered(model, "abcabcabcabc", 60, Sampling(0.0, bias=tuple((3 + ord(c), 1e3) for c in "ab")))
  assert model.figures()["guessed_tokens"] > 0 and len(repeated.tokens) == 60
  assert model.figures()["compilations"] == 0
  for one in (model, plain):
    one.stop()


@pytest.mark.parametrize("mesh", [{"tensor": 2}, {"data": 2, "fsdp": 2}], ids=["kernels split", "slots split"])
def test_a_model_on_several_devices(expected, mesh):
  """Says the same, and compiles nothing for requests; alone with guesses too."""
  partitioner = Partitioner(**{"data": 1} | mesh, num_devices=math.prod(mesh.values()))
  placed = jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), params(),
                        partitioner.place(*MODEL.declared))
  model = made(partitioner=partitioner, params=placed, propose=PromptLookup(), slots=4)
  model.start()
  same(answered(model, **requests()[0]), expected[0], 1e-3)
  for found, one in [(ask(model, **one), one) for one in requests()[:6]]:
    found.end()
    same(found, expected[requests().index(one)], 1e-3)
  assert model.figures()["compilations"] == 0
  model.stop()


def test_conversations(model):
  ids, stop = model.chat([{"role": "developer", "content": "Be brief."},
                          {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}])
  text = model._vocabulary.decode(ids)
  assert "Be brief." in text and "Hi!" in text
  with pytest.raises(UserError, match="^message 1 has the role 'robot': use system"):
    model.chat([{"role": "robot", "content": ""}])
  with pytest.raises(UserError, match="^the model knows no image, only text: leave the image out"):
    model.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}])
  without = made(template=None)
  assert without.chat_refusal and model.chat_refusal is None
  with pytest.raises(UserError, match="has no chat template"):
    without.chat([{"role": "user", "content": "Hi"}])


def test_vectors_are_means_of_the_last_states(model):
  ids = [model.encode("abc"), model.encode(LONG)]
  found = model.embed(ids)
  for vector, text in zip(found, ids):
    states = MODEL.forward(params(), np.array([[0, *text]]), MODEL.initial_memory(1, model.window),
                           window=model.window).hidden
    np.testing.assert_allclose(vector, np.asarray(states)[0, 1:].mean(0), atol=1e-4)


def test_many_threads_may_ask(model, expected):
  results = {}

  def client(number):
    results[number] = answered(model, **requests()[number])

  threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
  for one in threads:
    one.start()
  for one in threads:
    one.join()
  for number, found in results.items():
    same(found, expected[number])


def test_the_window_is_the_run_s(model):
  assert model.window == EXPERIMENT.decoding_window()
