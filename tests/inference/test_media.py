"""Prompts with media, and continuations that are media, by a model of random parameters."""

import dataclasses

import numpy as np
import pytest

from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference import media
from gpt4x.inference.generate import Generator
from gpt4x.inference.media import Output
from gpt4x.inference.sampling import Sampling
from gpt4x.media import codec_files
from gpt4x.media.layout import Span
from gpt4x.media.medium import Audio, Image, Video
from gpt4x.media.vocabulary import MediaTokens
from tests.inference import media_model
from tests.media import codecs

RNG = np.random.default_rng(0)
PICTURE, OTHER = (Image(RNG.integers(0, 256, (2, 3, 1), np.uint8)) for _ in range(2))
SOUND = Audio(RNG.integers(-9, 9, 5, np.int16), 8000)
A, B, S = PICTURE, OTHER, SOUND


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  """A model of text, images as pixels, sounds as samples, and videos by a codec of random parameters."""
  folder = tmp_path_factory.mktemp("media")
  codec_files.save(folder / "codec", codecs.codec("video"))
  # Text soon begins a medium, media are small and soon over.
  return media_model.write(folder, MediaTokens(image="grey", audio="pcm:8000", video=str(folder / "codec")), IMAGE=3.5,
                           AUDIO=3.5, VIDEO=3.5, EOS=4.0, AUDIO_END=5.0, VIDEO_END=2.0, FRAME_END=3.0, SIZE1=8.0,
                           SIZE2=8.0, SIZE3=8.0)


def generator(made, output=None, converter="prefix_lm", **options):
  lengths = media_model.LENGTHS if converter == "prefix_lm" else {"targets": 16}
  data = DatasetConfig(media_model.TASK, lengths, batch_size=1, feature_converter=converter)
  return Generator(str(made.directory), Experiment(made.model, data), output=output, **options)


# Where media stand in a prompt.


@pytest.mark.parametrize("text, given, parts", [
    ("", [], []), ("what?", [], ["what?"]), ("what?", [A, S, B], [A, S, B, "what?"]), ("", [S, A], [S, A]),
    ("<image> and <image>?", [A, B], [A, " and ", B, "?"]), ("see <image><image>", [A, B], ["see ", A, B]),
    ("<audio>, <image>", [A, S], [S, ", ", A]), ("<video>", [], None), ("<image>", [A, B], None),
    ("<image>", [A, S], None), ("<image> <image>", [A], None), ("<images>", [A], [A, "<images>"])])
def test_marks_choose_the_places(text, given, parts):
  """The first mark of a kind is of the first medium of that kind, in whichever order the kinds are given."""
  if parts is None:
    with pytest.raises(UserError, match="mark <(image|audio|video)> .* as many"):
      media.place(text, given)
  else:
    found = media.place(text, given)
    assert len(found) == len(parts) and all(one is other or one == other for one, other in zip(found, parts))


def test_a_prompt_has_the_ids_of_its_parts(made):
  prompt = generator(made).prompt("see <image>?", [PICTURE])
  assert prompt.text == "see <image>?"
  text, (picture,) = made.vocabulary.encode, made.vocabulary.encode_media([PICTURE])
  assert prompt.ids == [*text("see "), *made.vocabulary.layout.flatten(picture).tolist(), *text("?")]
  assert generator(made).prompt("text") == "text", "so that a row draws what it does without media"


def test_media_in_a_prompt_count_for_its_continuation(made):
  """Another picture, or the same elsewhere, gives other probabilities; the same one the same, beside others or not."""
  free = generator(made, sampling=Sampling(temperature=0))
  prompts = [free.prompt(text, [picture]) for text, picture in (
      ("a <image> b", PICTURE), ("a <image> b", OTHER), ("a b<image>", PICTURE))]
  together = [one.log_probs for one in free.complete(prompts, max_tokens=4)]
  assert len({tuple(np.round(one, 4)) for one in together}) == 3
  for prompt, log_probs in zip(prompts, together):
    alone, = free.complete([prompt], max_tokens=4)
    np.testing.assert_allclose(alone.log_probs, log_probs, atol=1e-5)


def test_prompts_that_differ_in_their_media_draw_numbers_of_their_own(made):
  hot = generator(made, sampling=Sampling(temperature=1e9))
  found = [tuple(one.tokens) for one in hot.complete(
      [hot.prompt("a", [PICTURE]), hot.prompt("a", [OTHER]), "a"], num_samples=2, max_tokens=8)]
  assert len(set(found)) == 6


# What a continuation is.


def test_without_an_output_there_is_text_alone(made):
  hot = generator(made, sampling=Sampling(temperature=1e9))
  text = made.vocabulary.layout.ranges["text"]
  prompts = ["a", hot.prompt("", [PICTURE, SOUND])]
  for one in hot.complete(prompts, num_samples=4, max_tokens=40):
    assert all(token in text for token in one.tokens)
    assert all(isinstance(part, str) for part in hot.parts(one))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (64, 1)])
def test_an_image_of_any_size(made, size):
  """Far larger ones than an example of training are whole, and each takes exactly the tokens that are allowed it."""
  drawn = generator(made, Output("image", size=size))
  for one in drawn.complete(["a", ""], num_samples=2):
    picture, = drawn.parts(one)
    assert picture.pixels.shape == (*size, 1) and one.finish_reason == "eos" and one.text == "<image>"
    assert len(one.tokens) == media.max_tokens(made.vocabulary, Output("image", size=size))


@pytest.mark.parametrize("seconds", [1 / 8000, 0.0119])
def test_a_sound_of_any_length(made, seconds):
  drawn = generator(made, Output("audio", seconds=seconds))
  one, = drawn.complete(["a"])
  sound, = drawn.parts(one)
  assert len(sound.samples) == round(seconds * 8000) and sound.rate == 8000
  assert len(one.tokens) == media.max_tokens(made.vocabulary, Output("audio", seconds=seconds))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_video_of_any_length(made, frames):
  """Also of one that ends within a latent frame of two frames."""
  fps = codecs.CONFIGS["video"].fps
  drawn = generator(made, Output("video", size=(4, 2), seconds=frames / fps))
  one, = drawn.complete(["a"])
  video, = drawn.parts(one)
  assert video.frames.shape == (frames, 4, 2, 1) and video.fps == fps and one.finish_reason == "eos"


def test_what_the_model_decides(made):
  """The sizes and lengths of what is drawn differ, and all of it is a medium."""
  shapes = set()
  for medium, kind in (("image", Image), ("audio", Audio), ("video", Video)):
    drawn = generator(made, Output(medium))
    for one in drawn.complete(["a"], num_samples=4, max_tokens=400):
      if not (parts := drawn.parts(one)):  # An empty sound, or less than a frame with its sound.
        assert len(one.tokens) == 3 if medium == "audio" else one.finish_reason == "length"
        continue
      part, = parts
      assert isinstance(part, kind)
      shapes.add(next(value.shape for value in vars(part).values() if isinstance(value, np.ndarray)))
  assert len(shapes) > 6


def test_text_with_media_in_it(made):
  drawn, kinds = generator(made, Output()), set()
  for one in drawn.complete(["a", drawn.prompt("b", [PICTURE])], num_samples=8, max_tokens=64):
    parts = [part for part in drawn.parts(one) if not isinstance(part, str)]
    assert sum(one.text.count(f"<{kind}>") for kind in ("image", "audio", "video")) >= len(parts)
    kinds |= {part.medium for part in parts}
  assert kinds == {"image", "audio", "video"}


def test_a_stream_that_is_cut_has_what_came(made):
  drawn = generator(made, Output("image", size=(4, 3)))
  one, = drawn.complete(["a"], max_tokens=3 + 2 * 4 + 1)
  picture, = drawn.parts(one)
  assert picture.pixels.shape == (2, 3, 1) and one.finish_reason == "length"
  nothing, = drawn.complete(["a"], max_tokens=3)
  assert drawn.parts(nothing) == []


def test_as_many_tokens_as_an_output_may_take(made):
  """Against the streams of the largest media that an output allows."""
  layout, zeros = made.vocabulary.layout, lambda *shape: np.zeros(shape, np.int32)
  longest = lambda span: len(layout.flatten(span)) + 1
  assert media.max_tokens(made.vocabulary, Output("image")) == longest(Span("image", zeros(64, 64, 1)))
  for seconds in (0.001, 0.5):
    cells = round(seconds * 8000)
    assert longest(Span("audio", zeros(cells, 2))) == media.max_tokens(
        made.vocabulary, Output("audio", seconds=seconds))
  sound = [zeros(round(8000 / 10), 2)] * 3  # Of three latent frames.
  assert longest(Span("video", zeros(3, 2, 1, 1), tuple(sound))) <= media.max_tokens(
      made.vocabulary, Output("video", size=(4, 2), seconds=0.3))


# Guidance.


def test_guidance(made):
  """Once is the model as it is, bit for bit; more often, only what the prompt changes counts more."""
  output, likeliest = Output("image", size=(2, 2)), Sampling(temperature=0)
  tokens = {scale: [one.tokens for one in generator(
      made, output, sampling=likeliest, guidance=scale).complete(["a", "bc"])] for scale in (1.0, 0.0, 30.0)}
  plain = [one.tokens for one in generator(made, output, sampling=likeliest).complete(["a", "bc"])]
  empty = [one.tokens for one in generator(made, output, sampling=likeliest).complete([""])]
  assert tokens[1.0] == plain != tokens[30.0]
  assert tokens[0.0] == empty * 2, "without its prompt a row is that of no prompt"


# What is refused, before any parameter is read.


@pytest.mark.parametrize("output, words", [
    (dict(medium="image", seconds=1.0), "1 seconds is for audio or video, and the output is image"),
    (dict(medium="audio", size=(2, 2)), "2x2 is for an image or a video, and the output is audio"),
    (dict(size=(2, 2)), "the output is text with any media"), (dict(seconds=2.0), "the output is text with any media")])
def test_an_output_that_contradicts_itself(output, words):
  with pytest.raises(UserError, match=words):
    Output(**output)


def test_sizes_that_the_codec_or_the_grammar_has_not(made):
  for medium, size, words in (("image", (65, 1), "sizes up to 64 .*at most 64x64"),
                              ("video", (130, 2), "65x1 patches.*at most 128x128"),
                              ("video", (3, 2), "3x2 does not divide.* multiples of 2")):
    with pytest.raises(UserError, match=words):
      generator(made, Output(medium, size=size))


def test_a_medium_that_the_model_does_not_know(tmp_path):
  text = media_model.write(tmp_path, MediaTokens())
  with pytest.raises(UserError, match="knows no image, only text"):
    generator(text).prompt("a", [PICTURE])
  with pytest.raises(UserError, match="knows no audio, only text"):
    generator(text, Output("audio"))
  with pytest.raises(UserError, match="knows text alone"):
    generator(text, Output())
  assert generator(text).prompt("a <image> is text here") == "a <image> is text here"


def test_a_codec_s_lengths_are_found_by_what_it_decodes():
  """One whose first cell is shorter, as in video, and one whose first gives nothing yet, as in overlapped frames."""
  @dataclasses.dataclass
  class Sounds:
    first: int
    medium, num_codes = "audio", (4,)

    def decode(self, codes):
      return Audio(np.zeros(self.first + 3 * (len(codes) - 1), np.int16), 10)

  for first in (0, 1, 3):
    for count in range(1, 12):
      cells = media._cells_of_seconds(Sounds(first), count / 10)
      lengths = [first + 3 * (n - 1) for n in range(1, cells + 1)]
      assert lengths[-1] >= count and all(length < count for length in lengths[:-1])
