"""Media drawn for the conditions of a split: which, how, and the measures where their answer is known."""

import contextlib
import functools

import jax
import numpy as np
import pytest

from gpt4x.data.dataset import Dataset
from gpt4x.errors import UserError
from gpt4x.evaluation import features, samples
from gpt4x.evaluation.classification import classification_accuracy_score
from gpt4x.evaluation.samples import examples_of, MediaSampler
from gpt4x.media.medium import Audio, Image
from tests.evaluation import media_tasks
from tests.evaluation.media_tasks import experiment, image, label_of, registered, sound, TEXT, to_image, VOCABULARY

text_of = lambda example: VOCABULARY.decode(list(example.prompt))
PARAMS = functools.cache(lambda: media_tasks.MODEL.init(jax.random.key(1)))


@pytest.mark.parametrize("converter", ["prefix_lm", "lm", "packed", "stream"])
def test_conditions_are_what_comes_before_the_first_medium(converter):
  pairs = [*to_image(3), (["hum"], [sound(3, 0)]), (["no"], ["medium"])]
  options = {"pack": True, "lengths": {"targets": 70}} if converter == "packed" else {}
  kind = "lm" if converter == "packed" else converter
  with registered("conditions_for_test", pairs, inputs=kind == "prefix_lm") as name:
    found = list(examples_of(Dataset(experiment(name, kind, **options).dataset), "validation"))
  assert [(text_of(one), one.medium) for one in found] == [
      ("right", "image"), ("below", "image"), ("right", "image"), ("hum", "audio")]
  for i, one in enumerate(found[:3]):
    assert one.span.tolist() == VOCABULARY.encode_parts([image(label_of(i), i)]).tolist()


def test_what_is_no_condition():
  """Media in the inputs, media that are cut, and text between inputs and medium, which would be seen by the inputs."""
  pairs = [([image("right", 0)], ["text"]), (["a"], ["between", image("right", 1)]), (["a"], [sound(20, 0)]),
           ([image("below", 2), "next"], [image("below", 3)])]
  with registered("conditions_for_test", pairs) as name:
    [found] = examples_of(Dataset(experiment(name, lengths={"inputs": 30, "targets": 32}).dataset), "validation")
  assert text_of(found) == "<image>next"
  assert found.span.tolist() == VOCABULARY.encode_parts([image("below", 3)]).tolist()


@contextlib.contextmanager
def sampler(pairs, train=None, converter="prefix_lm", **options):
  with registered("samples_for_test", pairs, train, inputs=converter == "prefix_lm") as name:
    yield MediaSampler(experiment(name, converter), "validation", **options)


def test_samples_are_media_whatever_the_batch():
  """By a model that knows nothing: legal streams, each with its own draw, whoever is drawn beside it."""
  found = []
  for options in ({"batch_size": 4}, {"batch_size": 3}):
    with sampler(to_image(6), **options) as draw:
      measures, shown = draw(PARAMS(), 6)
    assert measures["samples/complete"] == 1.0  # No picture has more room than the split's own.
    assert [cell.caption for cell in shown.cells] == [label_of(i) for i in range(6)]
    found.append([cell.media[0].pixels for cell in shown.cells])
  for one, other in zip(*found):
    np.testing.assert_array_equal(one, other)
  assert len({one.tobytes() for one in found[0]}) == 6, "equal conditions have draws of their own"


def test_kinds_are_not_mixed_and_lengths_are_free():
  """Pictures and sounds of one split; a stream's conditions; what does not end is shown as far as it came."""
  pairs = [(["hum"], [sound(4, 0)]), *to_image(2), (["hiss"], [sound(2, 1)])]
  with sampler(pairs, converter="stream") as draw:
    measures, shown = draw(PARAMS(), 8)
  kinds = {cell.caption: type(cell.media[0]) for cell in shown.cells}
  assert kinds == {"hum": Audio, "hiss": Audio, "right": Image, "below": Image}
  assert 0 < measures["samples/complete"] <= 1 and measures.keys() <= {"samples/complete", "samples/nearest"}


def test_guidance_has_no_condition_for_its_other_rows(monkeypatch):
  given = []
  call = samples.Engine.__call__
  monkeypatch.setattr(samples.Engine, "__call__", lambda self, *args, **options: given.append(
      (args[4], options)) or call(self, *args, **options))
  with sampler(to_image(2), guidance=3.0, batch_size=2) as draw:
    draw(PARAMS(), 2)
  assert given == [(True, {"null_prompts": [(), ()]})]


def drawn_from(monkeypatch, make):
  """A sampler whose model makes `make(text, number)` for the number-th condition."""
  def draw(self, params, examples, between_batches=None):
    return [(make(text_of(example), number), True) for number, example in enumerate(examples)]

  monkeypatch.setattr(MediaSampler, "draw", draw)


def test_copies_of_training_pictures_are_found_out(monkeypatch):
  """Their distance is 0; and as they are good pictures, they teach a classifier what real ones do."""
  train = to_image(30, first=100)
  drawn_from(monkeypatch, lambda text, number: image(text, 100 + 2 * (number % 15) + (text == "below")))
  with sampler(to_image(12), train) as draw:
    measures, _ = draw(None, 12)
  assert measures["samples/nearest"] == 0 and measures["samples/cas"] == 1.0
  real, training = (np.stack([wanted[0].pixels for _, wanted in pairs]).astype(float)
                    for pairs in (to_image(12), train))
  expected = np.mean([min(np.sqrt(np.mean((one - other)**2)) for other in training) for one in real])
  np.testing.assert_allclose(measures["samples/nearest_real"], expected, rtol=1e-6)


def test_pictures_of_the_wrong_class_teach_the_wrong_thing(monkeypatch):
  drawn_from(monkeypatch, lambda text, number: image("below" if text == "right" else "right", 100 + number))
  with sampler(to_image(12)) as draw:
    assert draw(None, 12)[0]["samples/cas"] == 0.0


def test_sounds_are_judged_too(monkeypatch):
  """By their timbre: high ones and low ones, of any length."""
  def tone(text, number):
    time = np.arange(1200 + 100 * (number % 3)) / 8000
    noise = np.random.default_rng(number).normal(size=len(time))
    wave = 6000 * np.sin(2 * np.pi * (300 if text == "low" else 2000) * time)
    return Audio((wave + 50 * noise).astype(np.int16), 8000)

  drawn_from(monkeypatch, lambda text, number: tone(text, 100 + number))
  pairs = [([text], [tone(text, number)]) for number, text in enumerate(["low", "high"] * 3)]
  with registered("samples_for_test", pairs) as name:
    draw = MediaSampler(experiment(name, lengths={"inputs": 8, "targets": 3000}), "validation")
    measures, shown = draw(None, 8)
  assert measures == {"samples/complete": 1.0, "samples/cas": 1.0}
  assert list(shown.sounds) == [f"00{i}" for i in range(8)]


@pytest.mark.parametrize("pairs", [
    [([f"a shoe, number {i}"], [image("right", i)]) for i in range(6)],
    [(["shoe"], [image("right", i)]) for i in range(6)]],
    ids=["captions", "one label"])
def test_captions_are_no_labels(monkeypatch, pairs):
  drawn_from(monkeypatch, lambda text, number: image("right", number))
  with sampler(pairs) as draw:
    assert "samples/cas" not in draw(None, 6)[0]


def test_conditions_are_of_all_parts_of_the_split(monkeypatch):
  drawn_from(monkeypatch, lambda text, number: image("right", number))
  with sampler([([str(i)], [image("right", i)]) for i in range(9)]) as draw:
    captions = lambda count: [cell.caption for cell in draw(None, count)[1].cells]
    assert captions(3) == ["0", "3", "6"] and captions(9) == list("012345678") and captions(11)[9:] == ["0", "1"]


def test_nothing_whole_is_not_shown(monkeypatch):
  with sampler(to_image(2)) as draw:
    layout = VOCABULARY.layout
    assert draw._span(np.array([layout.special("IMAGE"), layout.ranges["size"].start])) is None
    whole = VOCABULARY.encode_parts([image("right", 0)])
    cut, again = (draw._span(ids) for ids in (whole[:3 + 2 * 5 + 2], np.append(whole, [1, 1])))
    assert not cut.complete and again.complete
    for medium, rows in zip(draw._media([cut, None, again])[::2], (2, 4)):
      np.testing.assert_array_equal(medium.pixels, image("right", 0).pixels[:rows])
    assert draw._media([None]) == [None]
    monkeypatch.setattr(draw, "draw", lambda *_: [(None, False)] * 2)
    measures, shown = draw(None, 2)
    assert measures == {"samples/complete": 0.0} and shown.sheet is None


def test_errors_say_what_to_do():
  with (registered("samples_for_test", [(["a"], ["b"])], vocabulary=TEXT) as name,
        pytest.raises(UserError, match="the vocabulary of samples_for_test has text alone: ask for none")):
    MediaSampler(experiment(name), "validation")
  with (sampler([([image("right", 0)], ["b"])]) as draw,
        pytest.raises(UserError, match="no example of samples_for_test, split validation, has one in its targets")):
    draw(None, 2)


def test_the_score_by_hand():
  """What `samples/cas` is, from the functions that it is made of."""
  made, real = ([image(label_of(i), first + i).pixels for i in range(8)] for first in (50, 0))
  labels = [label_of(i) for i in range(8)]
  made, real = features.hog(np.stack(made)), features.hog(np.stack(real))
  assert classification_accuracy_score(made, labels, real, labels) == 1.0
