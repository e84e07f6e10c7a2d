"""What the routes answer, as a whole and as streams."""

import asyncio
import base64
import json

import numpy as np
import pytest

from gpt4x.inference.sampling import Sampling
from gpt4x.serving.contract import Delta, Finished, Request, Token
from tests.serving.asking import app_of, ask, get, post
from tests.serving.fake import Fake

COMPLETION, CHAT, EMBEDDING = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"


def complete(model=None, **body):
  return post(app_of(model or Fake()), COMPLETION, {"model": "fake", "seed": 3} | body)


def converse(model=None, **body):
  return post(app_of(model or Fake()), CHAT, {"model": "fake", "seed": 3, "messages": [
      {"role": "user", "content": "hé"}]} | body)


def joined(events, index=0):
  """The text of a choice of a stream."""
  parts = [choice.get("text", choice.get("delta", {}).get("content", "")) for event in events
           for choice in event["choices"] if choice["index"] == index]
  return "".join(parts)


@pytest.mark.parametrize("prompt, ids", [
    ("", [[]]), (None, [[]]), ("ab", [[97, 98]]), (["a", "b"], [[97], [98]]), ([97, 98], [[97, 98]]),
    ([[97], []], [[97], []]), (["", [98]], [[], [98]])])
def test_prompts(prompt, ids):
  model = Fake()
  found = complete(model, prompt=prompt).json
  assert [list(one.ids) for one in model.submitted] == ids
  assert [choice["index"] for choice in found["choices"]] == list(range(len(ids)))
  assert [choice["text"] for choice in found["choices"]] == [f"<3,0,{len(one)}> naïve " for one in ids]
  assert found["object"] == "text_completion" and found["model"] == "fake" and found["id"].startswith("cmpl-")


def test_what_reaches_the_model():
  model = Fake()
  complete(model, prompt="a", max_tokens=5, stop=["x", "y"], n=2, seed=-1, temperature=0.5, top_p=0.25, top_k=3,
           min_p=0.125, presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.5,
           logit_bias={"7": -100, "3": 2.5})
  first, second = model.submitted
  assert (first.max_tokens, first.stop, first.seed, first.sample, second.sample) == (5, ("x", "y"), 2**32 - 1, 0, 1)
  sampling = first.sampling
  assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.25, 3, 0.125)
  assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, -1, 1.5)
  assert dict(sampling.bias) == {7: -100, 3: 2.5}


def test_without_a_seed_the_same_request_draws_anew():
  model = Fake()
  for _ in range(2):
    complete(model, prompt="a", seed=None)
  assert model.submitted[0].seed != model.submitted[1].seed


def test_usage_counts_a_prompt_once():
  used = complete(prompt=["ab", "cdef"], n=3, max_tokens=4).json["usage"]
  assert used == {"prompt_tokens": 6, "completion_tokens": 24, "total_tokens": 30,
                  "prompt_tokens_details": {"cached_tokens": 3}}


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_and_echo(stream):
  found = complete(prompt="hé", max_tokens=0, echo=True, stream=stream)
  if stream:
    assert joined(found.events) == "hé" and found.events[-1]["choices"][0]["finish_reason"] == "length"
  else:
    assert found.json["choices"] == [{"index": 0, "text": "hé", "logprobs": None, "finish_reason": "length"}]


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"logprobs": 0}, {"stream": True, "logprobs": 0}])
def test_each_choice_echoes_its_own_prompt(more):
  found = complete(prompt=["a", "b"], n=2, max_tokens=0, echo=True, **more)
  texts = [joined(found.events, index) for index in range(4)] if "stream" in more else [
      choice["text"] for choice in found.json["choices"]]
  assert texts == ["a", "a", "b", "b"]


def test_echo_of_ids_is_their_text():
  assert complete(prompt=list("hé".encode()), max_tokens=1, echo=True).json["choices"][0]["text"] == "hé<"


def test_the_scores_of_a_prompt():
  """What is asked for to score a text: nothing drawn, the prompt's own log-probabilities."""
  choice = complete(prompt="hé!", max_tokens=0, echo=True, logprobs=1).json["choices"][0]
  assert choice["text"] == "hé!"
  assert choice["logprobs"] == {
      "tokens": ["h", "bytes:\\xc3", "bytes:\\xa9", "!"], "token_logprobs": [None, -0.5, -0.5, -0.5],
      "top_logprobs": [None, {"bytes:\\xc3": -0.5}, {"bytes:\\xa9": -0.5}, {"!": -0.5}], "text_offset": [0, 1, 1, 2]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", [False, True])
def test_offsets_lead_to_tokens(stream, echo):
  found = complete(prompt="hé", max_tokens=50, echo=echo, logprobs=2, stream=stream)
  if stream:
    choices = [event["choices"][0] for event in found.events]
    text = "".join(choice["text"] for choice in choices)
    lists = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens, offsets = (sum((one[name] for one in lists), []) for name in ("tokens", "text_offset"))
  else:
    text, lists = found.json["choices"][0]["text"], found.json["choices"][0]["logprobs"]
    tokens, offsets = lists["tokens"], lists["text_offset"]
  assert text == "hé" * echo + "<3,0,3> naïve € 𝄞" and len(tokens) == len(text.encode())
  for token, offset in zip(tokens, offsets):
    assert token.startswith("bytes:") or text[offset] == token
  assert offsets == sorted(offsets)


@pytest.mark.parametrize("stop", [None, "bcd"])  # Of which two are held back.
@pytest.mark.parametrize("stream", [False, True])
def test_offsets_of_bytes_that_are_no_text(stream, stop):
  """They have no place in the text that is sent: what comes behind them begins where they are."""
  model = Fake(answer=lambda _: b"a\xc3b\xff\xe2\x82c\x80\xc3\xa9\xc3\xa9!\xf0\x9f")
  text, offsets = "abcéé!", [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 6]
  assert offsets_of(complete(model, prompt="", max_tokens=50, logprobs=0, stop=stop, stream=stream)) == (text, offsets)


class Replacing(Fake):
  """Makes a replacement character of each byte that is no text, once it is sure."""

  def _events(self, request):
    tokens = zip([97, 0xe2, 0x82, 98, 0xff, 99, 0xff], ["a", "", "", "\ufffd\ufffdb", "", "\ufffdc", ""])
    yield from (Delta(text, [Token(token, -0.5)]) for token, text in tokens)
    yield Finished("stop", 0, 6, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_in_a_text_with_replacement_characters(stream):
  found = complete(Replacing(), prompt="", logprobs=0, stream=stream)
  assert offsets_of(found) == ("a\ufffd\ufffdb\ufffdc", [0, 1, 1, 3, 4, 5, 6])


def offsets_of(found):
  """(text, offsets) of an answer or a stream."""
  choices = [event["choices"][0] for event in found.events] if "event-stream" in found.headers[
      "content-type"] else found.json["choices"]
  lists = [choice["logprobs"]["text_offset"] for choice in choices if choice["logprobs"]]
  return "".join(choice["text"] for choice in choices), sum(lists, [])


def test_logprobs_of_zero_have_no_others():
  lists = complete(prompt="a", max_tokens=2, logprobs=0).json["choices"][0]["logprobs"]
  assert lists["top_logprobs"] is None and lists["token_logprobs"] == [-0.5, -0.5]


class Pieces(Fake):
  """Has a space ahead of a text, and log-probabilities that are no numbers of JSON."""

  def raw(self, token):
    return {97: b" once", 98: b" upon"}[token]

  def _events(self, request):
    yield Delta("once upon", [Token(97, -float("inf"), [(98, float("nan"))]), Token(98, -1.0)])
    yield Finished("stop", 0, 2, 0)


def test_pieces_with_a_space_ahead():
  choice = complete(Pieces(), prompt="", logprobs=1).json["choices"][0]
  assert choice["logprobs"]["text_offset"] == [0, 4] and choice["text"] == "once upon"
  assert choice["logprobs"]["token_logprobs"] == [-9999.0, -1.0]
  assert choice["logprobs"]["top_logprobs"][0] == {" upon": -9999.0, " once": -9999.0}


@pytest.mark.parametrize("path", [COMPLETION, CHAT])
def test_a_stream_is_the_answer_in_parts(path):
  body = {"model": "fake", "seed": 3, "n": 3, "max_tokens": 30} | (
      {"prompt": ["a", "bc"]} if path == COMPLETION else {"messages": [{"role": "user", "content": "x"}]})
  whole, stream = (post(app_of(Fake(max_queue=9)), path, body | {"stream": stream, **({
      "stream_options": {"include_usage": True}} if stream else {})}) for stream in (False, True))
  *events, last = stream.events
  assert last["choices"] == [] and last["usage"] == whole.json["usage"]
  assert len({event["id"] for event in [*events, last]}) == 1 and all(event["usage"] is None for event in events)
  for choice in whole.json["choices"]:
    text = choice["text"] if path == COMPLETION else choice["message"]["content"]
    index = choice["index"]
    assert joined(events, index) == text and "\ufffd" not in text
    own = [one["choices"][0] for one in events if one["choices"][0]["index"] == index]
    assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
    assert f",{index % 3}," in text
  assert not any("\ufffd" in joined([event], choice["index"]) for event in events for choice in event["choices"])


def test_a_stream_without_usage_has_none():
  assert all("usage" not in event and event["choices"] for event in complete(prompt="a", stream=True).events)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop, text", [
    ("ve €", "<3,0,1> naï"), (["€", "ï"], "<3,0,1> na"), ("nothing", "<3,0,1> naïve € 𝄞")])
def test_stops(stream, stop, text):
  found = complete(prompt="a", stop=stop, max_tokens=100, stream=stream)
  assert (joined(found.events) if stream else found.json["choices"][0]["text"]) == text


def test_a_conversation():
  model = Fake()
  messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "x"}]},
              {"role": "assistant", "content": "y", "refusal": None}, {"role": "user", "content": "z", "name": "me"}]
  found = converse(model, messages=messages, max_completion_tokens=12, stop="!").json
  assert model.conversations[0] == [{"role": one["role"], "content": one["content"]} for one in messages]
  assert model.submitted[0].stop == ("!", "\n") and model.submitted[0].max_tokens == 12
  choice = found["choices"][0]
  assert choice["message"]["role"] == "assistant" and choice["message"]["content"].startswith("<3,0,")
  assert choice["finish_reason"] == "length" and found["object"] == "chat.completion"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_conversation(stream):
  found = converse(max_tokens=14, logprobs=True, top_logprobs=2, stream=stream)
  lists = [event["choices"][0]["logprobs"] for event in found.events] if stream else [
      found.json["choices"][0]["logprobs"]]
  tokens = sum((one["content"] for one in lists if one), [])
  text = joined(found.events) if stream else found.json["choices"][0]["message"]["content"]
  assert bytes(sum((one["bytes"] for one in tokens), [])).decode("utf-8", "ignore") == text
  assert len(tokens) == 14 and all(len(one["top_logprobs"]) == 2 for one in tokens)


def test_a_model_without_a_template():
  error = converse(Fake(chat_refusal="the model has no template")).error
  assert error["message"] == "the model has no template" and error["code"] == "chat_not_supported"


@pytest.mark.parametrize("given, count", [("ab", 1), (["ab", "c"], 2), ([97, 98], 1), ([[97, 98], [99]], 2),
                                          (["ab", [99]], 2)])
def test_embeddings(given, count):
  ask_for = lambda **more: post(app_of(Fake()), EMBEDDING, {"model": "fake", "input": given} | more).json
  found, coded = ask_for(), ask_for(encoding_format="base64", dimensions=None, user="x")
  assert [one["index"] for one in found["data"]] == list(range(count))
  assert found["data"][0]["embedding"] == [2, 97 + 98, 0.5]
  for plain, code in zip(found["data"], coded["data"]):
    assert np.frombuffer(base64.b64decode(code["embedding"]), "<f4").tolist() == plain["embedding"]
  assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] == 2 + (count == 2)


def test_embeddings_wait_for_their_turn_or_are_refused():
  async def many():
    model = Fake()
    app = app_of(model, max_waiting_embeddings=2)
    model.hold()
    body = {"model": "fake", "input": "a"}
    waiting = [asyncio.create_task(ask(app, "POST", EMBEDDING, body)) for _ in range(3)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    model.hold(False)
    assert [one.result().status for one in done] == [429]
    return sorted([one.status for one in await asyncio.gather(*waiting)])
  assert asyncio.run(many()) == [200, 200, 429]


def test_models():
  app = app_of(Fake("a"), Fake("b"))
  assert [one["id"] for one in get(app, "/v1/models").json["data"]] == ["a", "b"]
  assert get(app, "/v1/models/b").json == {"id": "b", "object": "model", "created": 1_700_000_000, "owned_by": "gpt4x"}
  for name in ("c", "../a", "a/b", ""):
    assert get(app, f"/v1/models/{name}").error["code"] == "model_not_found"
  for path, body in [(COMPLETION, {"prompt": "a"}), (CHAT, {"messages": []}), (EMBEDDING, {"input": "a"})]:
    found = post(app, path, body | {"model": "c"})
    assert found.status == 404 and found.error["code"] == "model_not_found"


def test_each_model_answers_for_itself():
  one, other = Fake("a"), Fake("b")
  post(app_of(one, other), COMPLETION, {"model": "b", "prompt": "x"})
  assert not one.submitted and len(other.submitted) == 1


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/nothing", 404), ("GET", "/v1/completions/", 404), ("GET", COMPLETION, 405), ("OPTIONS", COMPLETION, 405),
    ("DELETE", "/v1/models", 405), ("HEAD", CHAT, 405)])
def test_no_such_route_or_method(method, path, status):
  found = get(app_of(Fake()), path, method=method)
  assert found.status == status and found.error["type"] == "invalid_request_error"
  assert not any(name.startswith("access-control") for name in found.headers)


@pytest.mark.parametrize("path", [COMPLETION, CHAT])
@pytest.mark.parametrize("after", [0, 3])
def test_a_model_that_fails(path, after):
  body = {"model": "fake", "prompt": "a"} if path == COMPLETION else {
      "model": "fake", "messages": [{"role": "user", "content": "x"}]}
  lines = []
  app = app_of(Fake(fail_after=after), log=lines.append)
  whole = post(app, path, body)
  assert whole.status == 500 and whole.error["message"] == "the engine stopped"
  *_, last = post(app, path, body | {"stream": True}).events
  assert last["error"] == whole.error and last["error"]["type"] == "server_error"
  assert [line.split()[2] for line in lines] == ["500", "599"]


@pytest.mark.parametrize("stream", [False, True])
def test_overload(stream):
  """All choices of a request are taken in, or none."""
  model = Fake(slots=1, max_queue=1)
  model.hold()
  first = model.submit(Request((1,), 5, Sampling()), lambda event: None)
  found = complete(model, prompt="a", n=2, stream=stream)
  assert found.status == 429 and found.headers["retry-after"] == "3" and found.error["type"] == "rate_limit_error"
  first.cancel()
  model.wait_idle()


def test_metrics():
  model = Fake()
  app = app_of(model)
  post(app, COMPLETION, {"model": "fake", "prompt": "a", "max_tokens": 5})
  post(app, COMPLETION, {"model": "x" * 50, "prompt": "a"})
  get(app, "/secret/path")
  text = get(app, "/metrics").body.decode()
  for line in ('gpt4x_requests_total{route="/v1/completions",status="200"} 1.0',
               'gpt4x_requests_total{route="/v1/completions",status="404"} 1.0',
               'gpt4x_requests_total{route="unknown",status="404"} 1.0',
               'gpt4x_time_to_first_token_seconds_count{model="fake"} 1.0',
               'gpt4x_time_per_token_seconds_count{model="fake"} 4.0', 'gpt4x_slots{model="fake"} 4.0',
               'gpt4x_running{model="fake"} 0.0', 'gpt4x_generated_tokens_total{model="fake"} 5.0'):
    assert line in text.splitlines(), text
  assert "secret" not in text and "xxx" not in text


def test_a_defect_is_an_answer_and_tells_nothing(capsys):
  class Broken(Fake):
    def submit(self, request, deliver):
      raise RuntimeError("secret prompt in /secret/path")
  for stream in (False, True):
    found = complete(Broken(), prompt="a", stream=stream)
    assert found.status == 500 and b"secret" not in found.body
  captured = capsys.readouterr()
  assert "RuntimeError" in captured.err and "secret" not in captured.err


def test_the_log_has_no_prompt_key_or_path():
  lines = []
  app = app_of(Fake(), log=lines.append, keys=(b"k" * 20,))
  headers = {"content-type": "application/json", "host": "localhost", "authorization": "Bearer " + "k" * 20}
  post(app, COMPLETION, {"model": "fake", "prompt": "secret", "max_tokens": 3}, headers)
  get(app, "/v1/models/secret", headers)
  get(app, "/secret?x=secret", headers)
  get(app, "/v1/models", {"host": "localhost", "authorization": "Bearer secret"})
  get(app, "/v1/models", headers, method="SECRET")
  assert [line.split()[:3] for line in lines] == [
      ["POST", COMPLETION, "200"], ["GET", "/v1/models/{model:path}", "404"], ["GET", "unknown", "404"],
      ["GET", "/v1/models", "401"], ["?", "/v1/models", "405"]]
  assert lines[0].endswith(" 6+3 tokens") and not any("secret" in line or "kkk" in line for line in lines)


def test_json_of_streams_has_characters_as_they_are():
  found = complete(prompt="a", max_tokens=100, stream=True)
  assert "𝄞".encode() in found.body and all(json.dumps(event) for event in found.events)


def test_more_than_can_ever_fit_is_a_mistake():
  """Not an overload, after which clients come again."""
  app = app_of(Fake(slots=2, max_queue=3), max_n=16)
  found = post(app, "/v1/completions", {"model": "fake", "prompt": ["a", "b", "c"], "n": 2})
  assert found.status == 400 and found.error["param"] == "n" and "takes 5 at a time" in found.error["message"]
  assert post(app, "/v1/completions", {"model": "fake", "prompt": ["a"], "n": 5}).status == 200
