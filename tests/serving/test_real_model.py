"""A model behind the whole of it: engine, batcher, routes and a real server, asked by the official client."""

import openai
import pytest

from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from tests.serving.asking import app_of, serving
from tests.serving.fake import SECONDS
from tests.serving.served import made, MODEL, params

# Both bytes of a character are drawn, and nothing else.
BIAS = {str(token): -100 for token in range(3, 131)} | {"1": -100} | {str(3 + byte): 100 for byte in "é".encode()}
MESSAGES = [{"role": "user", "content": "abc"}]


@pytest.fixture(scope="module", name="model")
def _model():
  model = made()
  model.start()
  yield model
  model.stop()


@pytest.fixture(scope="module", name="client")
def _client(model):
  with serving(app_of(model)) as (_, port), openai.OpenAI(
      api_key="none", base_url=f"http://127.0.0.1:{port}/v1", timeout=3 * SECONDS, max_retries=0) as client:
    yield client


def complete(client, prompt="abc", **fields):
  fields = {"max_tokens": 30, "seed": 3, "temperature": 2} | fields
  return client.completions.create(model="tiny", prompt=prompt, **fields)


def streamed(client, count=1, **fields):
  """The texts of a stream's choices, what each ended for, and the chunks' texts of the first."""
  texts, reasons, parts = [""] * count, [None] * count, []
  for chunk in complete(client, stream=True, **fields):
    choice, = chunk.choices
    texts[choice.index] += choice.text
    reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    parts += [choice.text] * (choice.index == 0)
  return texts, reasons, parts


def test_streamed_and_whole_are_the_same(client):
  """For each of several prompts and samples, by their indices."""
  fields = {"prompt": ["abc", "", "klm abc"], "n": 2}
  whole = complete(client, **fields)
  texts, reasons, _ = streamed(client, 6, **fields)
  assert [one.index for one in whole.choices] == list(range(6))
  assert texts == [one.text for one in whole.choices] and reasons == [one.finish_reason for one in whole.choices]
  assert texts[::2] == [complete(client, prompt).choices[0].text for prompt in fields["prompt"]]
  assert len(set(texts)) > 4


def test_tokens_are_those_of_the_engine_alone(client, model):
  """Decoded offline, without slots, a queue or a server."""
  engine = Engine(MODEL, model.window, 1, model.num_ids, Sampling(0.0, bias=((1, -100.0),)), first_id=3, start_id=0)
  prompts = ["abc", "m l k j", "abcdefghijklm " * 12]
  found = complete(client, prompts, max_tokens=24, temperature=0, logprobs=0, logit_bias={"1": -100})
  for prompt, choice in zip(prompts, found.choices, strict=True):
    pieces = engine(params(), [model.encode(prompt)], 24)
    alone = [int(token) for piece in pieces for token in piece.tokens[0]][:24]
    assert [3 + ord(token) for token in choice.logprobs.tokens] == alone and choice.finish_reason == "length"


def test_a_seed_decides_and_without_one_each_draws_anew(client):
  again, other = complete(client).choices[0].text, complete(client, seed=4).choices[0].text
  assert again == complete(client).choices[0].text != other
  assert len({complete(client, seed=None).choices[0].text for _ in range(3)}) == 3


def test_characters_of_several_tokens_come_whole(client):
  fields = {"max_tokens": 24, "logit_bias": BIAS, "frequency_penalty": 2}  # Which has them take turns.
  found = complete(client, logprobs=1, **fields)
  choice, = found.choices
  raw = b"".join(bytes.fromhex(token[-2:]) for token in choice.logprobs.tokens)
  assert len(raw) == 24 == found.usage.completion_tokens and set(raw) == set("é".encode())
  assert choice.text == raw.decode("utf-8", "ignore") and "é" in choice.text  # As seqio's bytes are.
  assert len(choice.logprobs.text_offset) == 24 and choice.logprobs.text_offset == sorted(choice.logprobs.text_offset)
  (text,), _, parts = streamed(client, **fields)
  assert text == choice.text and not any("\ufffd" in part for part in parts)


def test_offsets_do_not_pass_the_end_of_the_text(client):
  """Though bytes are drawn that make no character."""
  choice, = complete(client, logprobs=0, max_tokens=24, logit_bias={name: bias for name, bias in BIAS.items()
                                                                    if bias < 0}).choices
  offsets = choice.logprobs.text_offset
  assert len(choice.text) < 24 == len(offsets) and offsets == sorted(offsets) and offsets[-1] <= len(choice.text)


@pytest.mark.parametrize("prompt", ["naïve 𝄞 €", "🙂"])
def test_prompts_of_other_scripts(client, prompt):
  found = complete(client, prompt, echo=True, max_tokens=0, logprobs=2)
  choice, = found.choices
  assert choice.text == prompt and choice.finish_reason == "length"
  assert found.usage.prompt_tokens == len(prompt.encode()) == len(choice.logprobs.tokens)
  assert choice.logprobs.text_offset[-1] == len(prompt) - 1 or prompt == "🙂"
  assert all(one is None or one < 0 for one in choice.logprobs.token_logprobs)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_of_several_tokens_is_never_shown(client, stream):
  """Wherever it lies between the chunks of decoding: each place of a known text is tried."""
  fields = {"max_tokens": 24, "logit_bias": {"1": -100}}
  text = complete(client, **fields).choices[0].text
  for place in range(0, 20, 3):
    stop = text[place:place + 4]
    expected = text[:text.index(stop)]
    if stream:
      (found,), (reason,), _ = streamed(client, stop=[stop], **fields)
    else:
      choice, = complete(client, stop=[stop], **fields).choices
      found, reason = choice.text, choice.finish_reason
    assert (found, reason) == (expected, "stop")


def test_the_score_of_a_text_is_what_drawing_it_said(client):
  fields = {"logit_bias": {"1": -100}, "max_tokens": 12, "logprobs": 5, "temperature": 0}
  drawn, = complete(client, **fields).choices
  scored, = complete(client, "abc" + drawn.text, echo=True, logprobs=5, max_tokens=0).choices
  assert scored.logprobs.tokens[3:] == drawn.logprobs.tokens
  assert scored.logprobs.token_logprobs[3:] == pytest.approx(drawn.logprobs.token_logprobs, abs=1e-4)
  assert drawn.logprobs.text_offset == list(range(12)) and scored.logprobs.text_offset == list(range(15))
  assert all(len(one) in (5, 6) for one in drawn.logprobs.top_logprobs)


def test_a_conversation(client):
  fields = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, "seed": 1, "n": 2, "temperature": 2,
            "logit_bias": {"1": -100}}
  whole = client.chat.completions.create(logprobs=True, top_logprobs=20, **fields)
  texts = [""] * 2
  for chunk in client.chat.completions.create(stream=True, **fields):
    texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
  assert texts == [one.message.content for one in whole.choices] and texts[0] != texts[1]
  assert all(len(one.top_logprobs) == 20 for one in whole.choices[0].logprobs.content)


@pytest.mark.parametrize("part", [
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])
def test_media_that_the_model_does_not_read_are_refused(client, part):
  with pytest.raises(openai.BadRequestError):
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}])


def test_vectors(client):
  ask = lambda text, form: client.embeddings.create(model="tiny", input=text, encoding_format=form).data
  one, other = ask(["abc", "klm"], "float")
  assert len(one.embedding) == 16 and one.embedding != other.embedding
  assert client.embeddings.create(model="tiny", input="abc").data[0].embedding == pytest.approx(one.embedding, abs=1e-6)


def test_nothing_is_left_and_nothing_was_compiled(client, model):
  before = model.figures()["compilations"]
  for _ in range(8):  # More than slots, each of which is left after its first chunk.
    stream = complete(client, stream=True, max_tokens=10_000, logit_bias={"1": -100})
    next(iter(stream))
    stream.close()
  found = complete(client, max_tokens=20)  # Waits for a slot, if those are held.
  assert found.choices and model.figures()["compilations"] == before
