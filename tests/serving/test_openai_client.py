"""The official client: each of its calls, its errors and its retries, over loopback."""

import base64

import numpy as np
import openai
import pytest

from gpt4x.serving.contract import Overloaded
from tests.serving.asking import app_of, serving
from tests.serving.fake import Fake, SECONDS

KEY = "a-key-of-twenty-chars"
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "é"}]


@pytest.fixture(name="model")
def _model():
  return Fake()


@pytest.fixture(name="client")
def _client(model):
  app = app_of(model, Fake("other", chat_refusal="no template"), keys=(KEY.encode(),))
  with (serving(app) as (_, port), openai.OpenAI(
      api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", timeout=SECONDS, max_retries=0) as client):
    yield client


def test_models(client):
  assert [one.id for one in client.models.list()] == ["fake", "other"]
  assert client.models.retrieve("other").owned_by == "gpt4x"


def test_completions(client, model):
  found = client.completions.create(
      model="fake", prompt=["a", "b"], max_tokens=30, temperature=0.5, top_p=0.9, n=2, stop=["€"], seed=5, echo=True,
      logprobs=2, logit_bias={"7": -1}, presence_penalty=0.5, frequency_penalty=0.5, user="me", best_of=2, suffix="",
      extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1})
  assert [one.index for one in found.choices] == [0, 1, 2, 3] and found.usage.prompt_tokens == 2
  assert found.choices[3].text == "b<5,1,1> naïve " and found.choices[3].finish_reason == "stop"
  scores = found.choices[3].logprobs
  assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == len(scores.text_offset)
  assert model.submitted[0].sampling.top_k == 3


def test_a_stream_of_completions(client):
  chunks = list(client.completions.create(model="fake", prompt="a", max_tokens=40, seed=5, stream=True,
                                          stream_options={"include_usage": True}))
  assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "<5,0,1> naïve € 𝄞"
  assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len("<5,0,1> naïve € 𝄞".encode())


def test_conversations(client, model):
  found = client.chat.completions.create(
      model="fake", messages=MESSAGES, max_completion_tokens=8, temperature=0, top_p=1, n=2, stop="#", seed=5,
      logprobs=True, top_logprobs=2, logit_bias={"7": 1}, presence_penalty=0, frequency_penalty=0, user="me",
      store=False, metadata={"a": "b"}, response_format={"type": "text"}, modalities=["text"])
  assert [one.message.content for one in found.choices] == ["<5,0,40>"[:8], "<5,1,40>"[:8]] or len(found.choices) == 2
  assert len(found.choices[0].logprobs.content) == 8 and len(found.choices[0].logprobs.content[0].top_logprobs) == 2
  again = [*MESSAGES, found.choices[0].message.model_dump(), {"role": "user", "content": "and?"}]
  assert client.chat.completions.create(model="fake", messages=again, max_tokens=1).choices
  assert model.conversations[-1][2]["role"] == "assistant"


def test_a_stream_of_a_conversation(client):
  chunks = list(client.chat.completions.create(model="fake", messages=MESSAGES, seed=5, stream=True,
                                               stream_options={"include_usage": True}))
  assert chunks[0].choices[0].delta.role == "assistant"
  assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]).endswith("naïve € 𝄞")
  assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.total_tokens > 0


def test_the_client_s_own_way_to_gather_a_stream(client):
  with client.chat.completions.stream(model="fake", messages=MESSAGES) as stream:
    for _ in stream:
      pass
    assert stream.get_final_completion().choices[0].finish_reason == "stop"


def test_a_stream_that_is_closed_early_gives_its_slot_back(client, model):
  stream = client.completions.create(model="fake", prompt="a", stream=True, max_tokens=40)
  next(iter(stream))
  stream.close()
  model.wait_idle()


def test_embeddings(client):
  """By default the client asks for base64, and decodes it."""
  found = client.embeddings.create(model="fake", input=["ab", "c"])
  assert found.data[0].embedding == [2, 195, 0.5] and found.usage.prompt_tokens == 3
  plain = client.embeddings.create(model="fake", input=[[97, 98]], encoding_format="float")
  coded = client.embeddings.create(model="fake", input=[97, 98], encoding_format="base64")
  assert np.frombuffer(base64.b64decode(coded.data[0].embedding), "<f4").tolist() == plain.data[0].embedding


@pytest.mark.parametrize("error, call", [
    (openai.NotFoundError, lambda client: client.completions.create(model="x", prompt="a")),
    (openai.NotFoundError, lambda client: client.models.retrieve("x")),
    (openai.NotFoundError, lambda client: client.files.list()),
    (openai.BadRequestError, lambda client: client.completions.create(model="fake", prompt="a", n=1000)),
    (openai.BadRequestError, lambda client: client.chat.completions.create(model="other", messages=MESSAGES)),
    (openai.BadRequestError, lambda client: client.chat.completions.create(model="fake", messages=MESSAGES, tools=[
        {"type": "function", "function": {"name": "f"}}])),
    (openai.BadRequestError, lambda client: client.embeddings.create(model="fake", input="a", dimensions=3)),
    (openai.AuthenticationError, lambda client: client.with_options(api_key="another").models.list())])
def test_errors(client, error, call):
  with pytest.raises(error) as caught:
    call(client)
  assert caught.value.body["message"] and caught.value.type


def test_an_error_inside_a_stream(client, model):
  model.fail_after = 3
  with pytest.raises(openai.APIError, match="the engine stopped"):
    list(client.completions.create(model="fake", prompt="a", stream=True))


def test_overload_is_tried_again_after_what_the_server_says(client, model):
  refused, submit = [], model.submit
  def busy_once(request, deliver):
    if not refused:
      refused.append(request)
      raise Overloaded(1.0)
    return submit(request, deliver)
  model.submit = busy_once
  with pytest.raises(openai.RateLimitError) as caught:
    client.completions.create(model="fake", prompt="a")
  assert caught.value.response.headers["retry-after"] == "1"
  refused.clear()
  assert client.with_options(max_retries=1).completions.create(model="fake", prompt="a").choices and refused
