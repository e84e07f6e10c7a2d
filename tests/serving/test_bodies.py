"""Bodies that are not what they must be: each is refused with status 400, and nothing reaches the model."""

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.serving.asking import app_of, ask, post
from tests.serving.fake import Fake

COMPLETION, CHAT, EMBEDDING = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
GOOD = {
    COMPLETION: {"model": "fake", "prompt": "ab", "max_tokens": 3},
    CHAT: {"model": "fake", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 3},
    EMBEDDING: {"model": "fake", "input": "ab"},
}
_DRAWING = {"temperature": (0, 2), "top_p": (0, 1), "min_p": (0, 1), "presence_penalty": (-2, 2),
            "frequency_penalty": (-2, 2), "repetition_penalty": (0.01, 100)}
_WHOLE = {"n": (1, 16), "max_tokens": (0, 2**14), "seed": (-2**63, 2**63 - 1), "top_k": (-1, 2**31 - 1)}
NUMBERS = {
    COMPLETION: _DRAWING | _WHOLE | {"logprobs": (0, 5), "best_of": (1, 16)},
    CHAT: _DRAWING | _WHOLE | {"max_completion_tokens": (0, 2**14), "top_logprobs": (0, 20)},
}
EVERY_NUMBER = [(path, name) for path, names in NUMBERS.items() for name in names]
NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "true", "false", '"1"', "[1]", "{}", "9" * 5000,
              "1e300", "-1e300", "9" * 300, "-" + "9" * 300]


def raw(path: str, name: str, value: str) -> bytes:
  """A good body with a field of this text of JSON."""
  good = json.dumps({key: one for key, one in GOOD[path].items() if key != name})
  return f'{good[:-1]}, "{name}": {value}}}'.encode()


@pytest.mark.parametrize("path, name", EVERY_NUMBER)
def test_no_number_and_one_out_of_range(path, name):
  model, (low, high) = Fake(), NUMBERS[path][name]
  app = app_of(model)

  async def all_of_them():
    outside = [str(low - 1), str(high + 1)] + ["0.5"] * (name not in _DRAWING)
    for value in NO_NUMBERS + outside:
      found = await ask(app, "POST", path, raw(path, name, value))
      assert found.status == 400, (value, found)
      assert found.error["type"] == "invalid_request_error"
      assert found.error["param"] in (name, None)  # None: it is no JSON.
  asyncio.run(all_of_them())
  assert not model.submitted


@pytest.mark.parametrize("path, name, inside", [
    *((path, "logit_bias", '{"3": %s}') for path in (COMPLETION, CHAT)), (COMPLETION, "prompt", "[97, %s]"),
    (COMPLETION, "prompt", '["a", [%s]]'), (EMBEDDING, "input", "[97, %s]"), (EMBEDDING, "input", '["a", [%s]]')])
def test_no_number_inside_of_a_field(path, name, inside):
  model = Fake()
  app = app_of(model)

  async def all_of_them():
    for value in [*NO_NUMBERS, "-101", "1e9", "null" if name != "logit_bias" else "101", "256.5"]:
      if (name, value) == ("prompt", '"1"') and inside.startswith("[97"):
        value = '{"1": 1}'
      found = await ask(app, "POST", path, raw(path, name, inside % value))
      assert found.status == 400 and found.error["param"] in (name, None), (value, found)
  asyncio.run(all_of_them())
  assert not model.submitted


@pytest.mark.parametrize("path, name", EVERY_NUMBER)
def test_both_ends_of_a_range_are_taken(path, name):
  model, ends = Fake(slots=16, max_queue=64), NUMBERS[path][name]
  for value in [*ends, None]:
    more = {"n": value} if name == "best_of" else {"logprobs": True} if name == "top_logprobs" else {}
    more |= {"max_tokens": None} if name == "max_completion_tokens" else {}
    assert post(app_of(model), path, GOOD[path] | more | {name: value}).status == 200, value
  assert model.submitted


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("body", [
    b"", b"null", b"[]", b"1", b'"x"', b"{", b'{"model": "fake"', b"\xff{}", b'{"model": "fa\xc3"}', b"\xef\xbb\xbf{}",
    b'{"model": "fake", "model": "fake"}', b"[" * 100_000, b'{"a":' * 100_000, b'{"a": "' + b"[" * 100, b"\x00",
    b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", b'{"model": "fake", "prompt": "\\ud800", "input": "\\ud800"}',
    b'{"model": "fake", "x\\udfff": 1}', "{}".encode("utf-16")], ids=lambda body: repr(body[:24]))
def test_what_is_no_object_of_json(path, body):
  model = Fake()
  assert post(app_of(model), path, body).error["type"] == "invalid_request_error" and not model.submitted


@pytest.mark.parametrize("flaw, words", [
    (b'"prompt": "a\xc3"', "UTF-8"), (b'"prompt": "\\ud800"', "surrogate"),
    (b'"metadata": {"\\udfff": 1}', "surrogate"),
    (b'"metadata": {"a": NaN}', "not JSON"), (b'"metadata": {"a": -Infinity}', "not JSON"),
    (b'"metadata": {"a": %b}' % (b"9" * 5000), "not JSON"), (b'"prompt": "a", "prompt": "a"', "a name twice"),
    (b'"metadata": {"a": {"b": 1, "b": 1}}', "a name twice"),
    (b'"metadata": {"a": %b%b}' % (b"[" * 40, b"]" * 40), "deep"),
    (b'"metadata": {"a": "%b"}' % (b"x" * 2**22), "longer than")], ids=lambda value: repr(value)[:40])
def test_one_flaw_in_a_good_body(flaw, words):
  """Wherever it is, in what is not used too."""
  model, body = Fake(), b'{"model": "fake", "max_tokens": 1, %b}'
  assert post(app_of(model), COMPLETION, body % b'"metadata": {"a": {"b": [[1]]}}').status == 200
  found = post(app_of(model), COMPLETION, body % flaw)
  assert found.status in (400, 413) and words in found.error["message"] and len(model.submitted) == 1


def test_brackets_in_a_text_are_no_depth():
  body = {"model": "fake", "prompt": '[' * 1000 + '\\"' + '{' * 1000, "max_tokens": 1}
  assert post(app_of(Fake()), COMPLETION, body).status == 200


def test_a_whole_surrogate_pair_is_a_character():
  model = Fake()
  assert post(app_of(model), COMPLETION, b'{"model": "fake", "prompt": "\\ud834\\udd1e"}').status == 200
  assert bytes(model.submitted[0].ids).decode() == "𝄞"


@pytest.mark.parametrize("path, field, value, param", [
    *((path, "tool", 1, "tool") for path in GOOD), *((path, "model", value, "model") for path in GOOD
                                                     for value in (None, 1, ["fake"])),
    (COMPLETION, "prompt", [], "prompt"), (COMPLETION, "prompt", 1, "prompt"), (COMPLETION, "prompt", {}, "prompt"),
    (COMPLETION, "prompt", [1, "a"], "prompt"), (COMPLETION, "prompt", ["a", [1]] * 65, "prompt"),
    (COMPLETION, "prompt", [True], "prompt"), (COMPLETION, "prompt", [1.5], "prompt"),
    (COMPLETION, "prompt", [256], "prompt"), (COMPLETION, "prompt", [-1], "prompt"),
    (COMPLETION, "prompt", [[1], [2**70]], "prompt"), (COMPLETION, "prompt", [[[1]]], "prompt"),
    (COMPLETION, "prompt", "unreadable", "prompt"), (COMPLETION, "prompt", "a" * 2**17 + "a", "prompt"),
    (COMPLETION, "suffix", "x", "suffix"), (COMPLETION, "best_of", 2, "best_of"), (COMPLETION, "echo", 1, "echo"),
    *((path, field, value, field) for path in (COMPLETION, CHAT) for field, value in [
        ("stream", "true"), ("stream", 1), ("stop", 1), ("stop", [""]), ("stop", ""), ("stop", ["a"] * 5),
        ("stop", [1]), ("stop", "a" * 1001), ("stop", [None]), ("stream_options", {"include_usage": True}),
        ("logit_bias", []), ("logit_bias", {"a": 1}), ("logit_bias", {"256": 1}), ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": "1"}), ("logit_bias", {"1": 101}), ("logit_bias", {"1": True}), ("logit_bias", {"²": 1}),
        ("logit_bias", {"1": 1, "01": 1}), ("logit_bias", {" 1": 1}), ("logit_bias", {"1_0": 1}),
        ("logit_bias", {str(one): 0 for one in range(1025)}), ("user", 1), ("store", True), ("metadata", "x"),
        ("service_tier", "priority")]),
    *((CHAT, field, value, field) for field, value in [
        ("tools", [{}]), ("tool_choice", "auto"), ("functions", [{}]), ("function_call", "auto"),
        ("response_format", {"type": "json_schema", "json_schema": {}}), ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]), ("audio", {"voice": "x"}), ("prediction", {}), ("reasoning_effort", "high"),
        ("logprobs", 1), ("top_logprobs", 1), ("max_completion_tokens", -1), ("web_search_options", {}),
        ("messages", []), ("messages", None), ("messages", "x"), ("messages", {}), ("messages", ["x"]),
        ("messages", [{"role": "user", "content": "a"}] * 1025)]),
    *((CHAT, "messages", [value], "messages") for value in [
        {}, {"role": "user"}, {"role": "tool", "content": "x"}, {"role": ["user"], "content": "x"},
        {"role": "user", "content": 1}, {"role": "user", "content": None}, {"role": "user", "content": ["x"]},
        {"role": "user", "content": [{"type": "text"}]}, {"role": "user", "content": "x", "tool_calls": [{}]},
        {"role": "user", "content": [{"type": "text", "text": "x", "more": 1}]},
        {"role": "user", "content": "x", "y": 1},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "x"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
        {"role": "user", "content": [{"type": "file", "file": {}}]}, {"role": "developer", "content": "x"}]),
    *((EMBEDDING, "input", value, "input") for value in [
        None, "", [], [""], ["a", ""], [[]], [[1], []], [1, "a"], [256], [True], 1, {}, ["a", 1], ["a"] * 2049,
        ["a" * 2**16, "b" * 2**16, "c"], "unreadable"]),
    (EMBEDDING, "dimensions", 3, "dimensions"), (EMBEDDING, "encoding_format", "int8", "encoding_format"),
], ids=lambda value: repr(value)[:40])
def test_a_field_that_is_refused(path, field, value, param):
  model = Fake()
  found = post(app_of(model), path, GOOD[path] | {field: value})
  assert found.status == 400 and found.error["param"].partition("[")[0] == param, found
  assert not model.submitted


@pytest.mark.parametrize("path", [COMPLETION, CHAT])
def test_continuations_are_limited_wherever_there_is_room(path):
  assert "from 1 to 16" in post(app_of(Fake(slots=100)), path, GOOD[path] | {"n": 17}).error["message"]


@pytest.mark.parametrize("url", ["http://localhost/", "HTTPS://localhost/", "//localhost/", "file:///etc/passwd",
                                 " data:,", "/etc/passwd", "ftp://localhost/a", "blob:data:,", ""])
def test_no_model_sees_what_would_have_to_be_fetched(url):
  model = Fake()
  part = {"type": "image_url", "image_url": {"url": url}}
  found = post(app_of(model), CHAT, GOOD[CHAT] | {"messages": [{"role": "user", "content": [part]}]})
  assert found.error["code"] == "unsupported_value" and not model.conversations


@pytest.mark.parametrize("path", [COMPLETION, CHAT])
def test_fields_that_ask_for_nothing(path):
  neutral = {"user": "x", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "n": None, "stop": [],
             "logit_bias": {}, "seed": 7.0, "safety_identifier": "x", "prompt_cache_key": "x", "stream_options": None}
  neutral |= {"best_of": 1, "suffix": ""} if path == COMPLETION else {
      "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"], "audio": None,
      "parallel_tool_calls": True, "max_completion_tokens": 3}
  model = Fake()
  assert post(app_of(model), path, GOOD[path] | neutral).status == 200 and model.submitted[0].seed == 7


def test_two_names_of_one_number():
  """The clients of before and of today, and those that send both."""
  for more, status in [({"max_completion_tokens": 4}, 400), ({"max_completion_tokens": 3}, 200)]:
    assert post(app_of(Fake()), CHAT, GOOD[CHAT] | more).status == status


def test_limits_are_settings():
  app = app_of(Fake(), max_n=2, max_prompts=2, max_tokens=5, max_prompt=4, max_depth=3, max_inputs=1)
  for path, more in [(COMPLETION, {"n": 3}), (COMPLETION, {"prompt": ["a"] * 3}), (COMPLETION, {"max_tokens": 6}),
                     (COMPLETION, {"prompt": "abcde"}), (COMPLETION, {"prompt": [[[1]]]}),
                     (EMBEDDING, {"input": ["a", "b"]})]:
    assert post(app, path, GOOD[path] | more).status == 400, more
  assert post(app, COMPLETION, GOOD[COMPLETION] | {"n": 2, "prompt": ["a", "b"], "max_tokens": 5}).status == 200


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8)
_names = sorted({*NUMBERS[COMPLETION], *NUMBERS[CHAT], "prompt", "messages", "input", "model", "stop", "stream", "echo",
                 "logprobs", "logit_bias", "stream_options", "tools", "encoding_format", "user"})


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(sorted(GOOD)), more=st.dictionaries(st.sampled_from(_names), _values, max_size=3),
       cut=st.integers(0, 400), noise=st.binary(max_size=3), whole=st.booleans())
def test_any_body_is_answered_or_refused(path, more, cut, noise, whole):
  """Never with a status of 500 and above, and all slots come back."""
  body = json.dumps(GOOD[path] | more).encode()
  model = Fake(slots=64, max_queue=10_000)
  found = post(app_of(model), path, body if whole else body[:cut] + noise + body[cut + len(noise):])
  assert found.status in (200, 400, 404), found
  if found.status != 200:
    assert found.error
  model.wait_idle()
