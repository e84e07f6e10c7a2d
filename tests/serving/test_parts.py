"""Media that come with a message: read as `gpt4x generate` reads them, and nothing is fetched."""

import asyncio
import base64
import io
import struct

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from gpt4x import run_directory
from gpt4x.data.chat_template import Template
from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference import media
from gpt4x.inference.generate import Generator
from gpt4x.inference.sampling import Sampling
from gpt4x.media import codec_files
from gpt4x.media.files import images, sounds
from gpt4x.media.medium import Audio, Image
from gpt4x.media.vocabulary import MediaTokens, MediaVocabulary
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.serving import parts
from gpt4x.serving.contract import Request
from gpt4x.serving.model import load, ServedModel
from tests.inference import media_model
from tests.media import codecs
from tests.models import tiny
from tests.serving.asking import app_of, ask
from tests.serving.fake import Fake
from tests.serving.served import answered, Collected

VOCABULARY = MediaVocabulary(MediaTokens(image="grey", audio="pcm:8000")).held()
TEMPLATE = '{% for m in messages %}{{ m.content }}{{ eos_token if m.role == "assistant" else "" }}{% endfor %}'
PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4, 1) * 20
SAMPLES = np.arange(-400, 400, dtype=np.int16) * 50


def written(pixels, form="PNG"):
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels).save(buffer, form)
  return buffer.getvalue()


PNG = written(PIXELS[..., 0])


def image(data=PNG, head="data:image/png;base64,"):
  return {"type": "image_url", "image_url": {"url": head + base64.b64encode(data).decode()}}


def wav_of(samples, rate, folder):
  sounds.write(Audio(samples, 8000), folder / "a.wav")
  data = (folder / "a.wav").read_bytes()
  return data[:24] + struct.pack("<I", rate) + data[28:]


@pytest.fixture(name="wav", scope="module")
def _wav(tmp_path_factory):
  return wav_of(SAMPLES, 8000, tmp_path_factory.mktemp("sounds"))


def encoded(content, seconds=None):
  """The ids of one message's."""
  found, = parts.Parts(VOCABULARY, seconds).encode([content])
  return found


def sound(data):
  return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def text(words):
  return {"type": "text", "text": words}


def test_parts_are_what_a_prompt_with_marks_is(wav):
  """Of `gpt4x generate`: the same ids in the same places."""
  found = encoded([text("a "), image(), text("b"), sound(wav), text("c")])
  assert found == media.encode(VOCABULARY, "a <image>b<audio>c", [Image(PIXELS), Audio(SAMPLES, 8000)]).ids


def test_a_mark_that_somebody_writes_is_text():
  assert encoded("<image>") == encoded([text("<ima"), text("ge>")]) == VOCABULARY.encode("<image>")
  assert encoded([image(), text("<image>")])[-7:] == VOCABULARY.encode("<image>")


def test_a_sound_is_as_long_as_in_training(wav):
  found = encoded([sound(wav)], 0.05)
  assert found == VOCABULARY.encode_parts([Audio(SAMPLES[:400], 8000)]).tolist()


@pytest.mark.parametrize("part, words", [
    (image(head="https://example.com/"), "no data:image"), (image(head="data:image/png,"), "no data:image"),
    (image(head="file:///etc/passwd"), "no data:image"), (image(b"GIF"), "another format"),
    (image(b"\x89PNG\r\n\x1a\n" + b"x" * 99), "cannot be read as an image"), (image(b""), "another format"),
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,a*b"}}, "no base64"),
    ({"type": "input_audio", "input_audio": {"data": "é", "format": "wav"}}, "no base64"),
    (sound(b"fLaC" + b"\0" * 99), "another format"), (sound(b"RIFF\0\0\0\0WAVE"), "cannot be read as a sound")])
def test_what_is_refused(part, words):
  with pytest.raises(UserError, match=words) as refused:
    parts.Parts(VOCABULARY, None).encode(["a", [], [part]])
  assert "of message 3" in str(refused.value) and "passwd" not in str(refused.value)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_small_file_of_many_pixels_is_not_decoded(monkeypatch, form):
  """A bomb: its head says what it would take."""
  side = 1 + int(parts.MOST_PIXELS**0.5)
  data = written(np.zeros((side, side), np.uint8), form)
  monkeypatch.setattr(images, "pixels_of", lambda _: pytest.fail("it was decoded"))
  with pytest.raises(UserError, match=f"has {side} x {side} pixels"):
    encoded([image(data)])


def test_what_a_request_has_in_all_is_bounded(monkeypatch, wav):
  """However many messages it is in: pixels, seconds of what is kept, and media."""
  two = lambda part: parts.Parts(VOCABULARY, None).encode([[part], "a", [part]])
  monkeypatch.setattr(parts, "MOST_PIXELS", 24)
  monkeypatch.setattr(parts, "MOST_SECONDS", 0.2)  # A sound of this test has half of it.
  for part in (image(), sound(wav)):
    assert [len(ids) for ids in two(part)][1] == 1
  monkeypatch.setattr(parts, "MOST_PIXELS", 23)
  with pytest.raises(UserError, match="^the image of message 3 has 4 x 3 pixels, and there is room for 11: scale"):
    two(image())
  monkeypatch.setattr(parts, "MOST_SECONDS", 0.19)
  with pytest.raises(UserError, match="^with the audio of message 3 there are more than 0.19 seconds of sound: cut"):
    two(sound(wav))
  assert parts.Parts(VOCABULARY, 0.09).encode([[sound(wav)], [sound(wav)]])
  monkeypatch.setattr(parts, "MOST_MEDIA", 1)
  with pytest.raises(UserError, match="^the messages have 2 images and sounds, and at most 1 are taken"):
    two(image(b"which is not looked at"))


def test_a_rate_for_which_a_filter_would_be_too_long_is_refused(tmp_path):
  """Before anything is resampled."""
  vocabulary = MediaVocabulary(MediaTokens(audio="pcm:8000", resample=True)).held()
  assert parts.Parts(vocabulary, None).encode([[sound(wav_of(SAMPLES, parts.HIGHEST_RATE, tmp_path))]])
  with pytest.raises(UserError, match="has 4,294,967,291 samples a second, more than 192,000"):
    parts.Parts(vocabulary, None).encode([[sound(wav_of(SAMPLES, 2**32 - 5, tmp_path))]])


def test_a_codec_does_not_run_over_what_has_no_sizes(monkeypatch):
  """A larger image would take the memory of a network over all of it, and then be refused."""
  codec = type(VOCABULARY.codecs["image"])
  monkeypatch.setattr(codec, "encode_all", lambda *_: pytest.fail("it ran"))
  with pytest.raises(UserError, match="the image has 65 x 2 cells, and MediaTokens.sizes = 64 allows"):
    encoded([image(written(np.zeros((65, 2), np.uint8)))])


def test_media_are_decoded_in_turn_and_off_the_loop():
  """Nobody else waits for them; one request at a time has its turn, only so many wait, and more are told to."""
  class Slow(Fake):
    turns = 0

    def chat(self, messages):
      with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
      if not isinstance(messages[0]["content"], str):
        self.turns += 1
        self.wait_for(lambda: not self._held)
        return [1], ()
      return super().chat(messages)

  async def many():
    model = Slow()
    app = app_of(model, max_waiting_media=2)
    said = lambda content, leave=None: ask(app, "POST", "/v1/chat/completions", {
        "model": "fake", "messages": [{"role": "user", "content": content}], "max_tokens": 1}, leave=leave)
    model.hold()
    leave, content = asyncio.Event(), [text("a"), image()]
    waiting = [asyncio.create_task(said(content, one)) for one in (None, leave, None)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    refused, = (one.result() for one in done)
    assert refused.status == 429 and "retry-after" in refused.headers and "with media" in refused.error["message"]
    assert (await said("unreadable")).status == 400  # It has been looked at.
    leave.set()
    assert (await waiting[1]).status == 0  # It left while it waited, and is never decoded.
    model.hold(False)
    assert [one.status for one in await asyncio.gather(*waiting)] == [200, 0, 429]
    assert model.turns == 1

  asyncio.run(many())


def test_a_model_without_the_medium_says_so():
  for vocabulary in (MediaVocabulary(MediaTokens(audio="pcm:8000")).held(), VOCABULARY.text):
    with pytest.raises(UserError, match="knows no image"):
      parts.Parts(vocabulary, None).encode([[image(b"which is not looked at")]])


def test_a_directory_that_is_served_reads_what_generate_reads(tmp_path, wav, repository):
  """With a codec that was trained and pictures that are resized: the same ids, and the same tokens behind them."""
  run, files = tmp_path / "run", {"image": tmp_path / "a.png", "audio": tmp_path / "a.wav"}
  codec_files.save(tmp_path / "codec", codecs.codec("image"))
  run.mkdir()
  made = media_model.write(run, MediaTokens(image=str(tmp_path / "codec"), audio="pcm:8000", image_size=4))
  (run / run_directory.CHAT_TEMPLATE).write_text(TEMPLATE)
  files["image"].write_bytes(PNG)
  files["audio"].write_bytes(wav)
  experiment = Experiment(made.model, DatasetConfig(media_model.TASK, {"targets": 16}, 1, feature_converter="lm"))
  generator = Generator(str(run), experiment, sampling=Sampling(0.0))
  prompt = generator.prompt("Is <image> loud as <audio>?", [images.read(files["image"]),
                                                            sounds.read(files["audio"], 0.01)])
  assert TEMPLATE in (repository / "docs" / "serving.md").read_text()
  served = load("mine", str(run), experiment, slots=1, seconds=0.01)
  parts_of_it = [text("Is "), image(), text(" loud as "), sound(wav), text("?")]
  ids, _ = served.chat([{"role": "user", "content": parts_of_it}])
  assert ids == list(prompt.ids)
  found = Collected()
  served.submit(Request(tuple(ids), 8, Sampling(0.0)), found)
  found.end()
  served.stop()
  assert [one.id for one in found.tokens] == next(generator.complete([prompt], max_tokens=8)).tokens


def test_a_conversation_about_a_picture():
  """Of a model that would draw nothing but media: it draws text."""
  size = VOCABULARY.layout.size
  model = LanguageModel(TransformerConfig(vocab_size=size, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=16,
                                          output_bias=True))
  bias = np.where(np.arange(size) < VOCABULARY.text.vocab_size, 0, 1e4).astype(np.float32)
  bias[VOCABULARY.eos_id] = -1e4
  params = jax.tree_util.tree_map_with_path(
      lambda path, leaf: jnp.asarray(bias if path[-1].key == "output_bias" else leaf), tiny.random_params(model))
  served = ServedModel("tiny", Experiment(model, DatasetConfig("local_media", {"targets": 32}, 1, "lm")), VOCABULARY,
                       params, template=Template(), slots=1)
  content = [text("What is "), image(), text("?")]
  ids, _ = served.chat([{"role": "user", "content": content}])
  assert ids == [*VOCABULARY.encode("<|user|>\n"), *media.encode(VOCABULARY, "What is <image>?", [Image(PIXELS)]).ids,
                 *VOCABULARY.encode("\n<|assistant|>\n")]
  served.start()
  assert {one.id for one in answered(served, "a", 12).tokens} <= set(range(VOCABULARY.text.vocab_size))
  body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 12, "logprobs": True}
  answer = asyncio.run(ask(app_of(served), "POST", "/v1/chat/completions", body))
  found = answer.json["choices"][0]
  assert answer.status == 200 and answer.json["usage"]["prompt_tokens"] == len(ids)
  assert len(found["logprobs"]["content"]) == 12 and found["finish_reason"] == "length"
  refused = [text("a"), image(head="https://example.com/")]
  answer = asyncio.run(ask(app_of(served), "POST", "/v1/chat/completions", body | {
      "messages": [{"role": "user", "content": refused}]}))
  assert answer.status == 400 and "nothing is fetched" in answer.error["message"]
  served.stop()
