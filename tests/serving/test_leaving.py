"""Clients that leave, wherever their request is: its slot, or its place in the queue, comes back."""

import asyncio
import json
import random

import pytest

from tests.serving.asking import app_of, ask
from tests.serving.fake import Fake

COMPLETION = "/v1/completions"


def leaving(model: Fake, app, until, **body) -> int:
  """A client goes when `until` holds of a model that is held: the status, 0 where nothing was sent."""
  async def run():
    leave = asyncio.Event()
    model.hold()
    task = asyncio.create_task(ask(app, "POST", COMPLETION, {"model": "fake", "prompt": "a"} | body, leave=leave))
    await asyncio.to_thread(model.wait_for, until)
    leave.set()
    await asyncio.to_thread(model.wait_idle)
    with_nothing = await asyncio.gather(task, return_exceptions=True)
    return with_nothing[0]
  return asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_leaves_while_it_has_a_slot(stream):
  model, lines = Fake(), []
  leaving(model, app_of(model, log=lines.append), lambda: model.running == 3, n=3, stream=stream)
  assert model.drawn == 3  # One each was about to be delivered.
  assert lines[0].split()[2] == ("200" if stream else "499")


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_leaves_in_the_queue(stream):
  model = Fake(slots=1)
  leaving(model, app_of(model), lambda: model.running == 1 and model.waiting == 2, n=3, stream=stream)
  assert model.drawn == 1


class Vectors(Fake):
  """Remembers which texts it was asked for."""

  def embed(self, ids):
    with self._condition:
      self.submitted += ids
      self._condition.notify_all()
    return super().embed(ids)


@pytest.mark.parametrize("place", [0, 1])  # Of two requests: the one at work, and the one that waits for its turn.
def test_one_that_leaves_before_its_vectors_are_there(place):
  """What it has not got yet is not made: of the one at work all but its first text."""
  model, lines = Vectors(), []
  app = app_of(model, log=lines.append)

  async def run():
    model.hold()
    leave, tasks = [asyncio.Event(), asyncio.Event()], []
    for number in (0, 1):
      body = {"model": "fake", "input": [[number], [number], [number]]}
      tasks.append(asyncio.create_task(ask(app, "POST", "/v1/embeddings", body, leave=leave[number])))
      await asyncio.to_thread(model.wait_for, lambda: len(model.submitted) == 1)
    leave[place].set()
    if place:
      await tasks[1]  # While the first is still at work.
    model.hold(False)
    return [one.status for one in await asyncio.gather(*tasks)]
  assert asyncio.run(run()) == ([200, 0] if place else [0, 200])
  assert model.submitted == ([(0,)] * 3 if place else [(0,), *[(1,)] * 3])
  assert sorted(line.split()[2] for line in lines) == ["200", "499"]


def test_one_that_leaves_before_its_body_is_there():
  model = Fake()

  async def run():
    async def receive():
      return {"type": "http.disconnect"}
    async def send(_):
      raise AssertionError("there is nobody to send to")
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    await app_of(model)({"type": "http", "method": "POST", "path": COMPLETION, "root_path": "", "headers": headers},
                        receive, send)
  asyncio.run(run())
  assert not model.submitted


def test_a_request_whose_task_is_cancelled():
  model = Fake()

  async def run():
    model.hold()
    task = asyncio.create_task(ask(app_of(model), "POST", COMPLETION, {"model": "fake", "prompt": "a"}))
    await asyncio.to_thread(model.wait_for, lambda: model.running == 1)
    task.cancel()
    await asyncio.to_thread(model.wait_idle)
  asyncio.run(run())


@pytest.mark.parametrize("seed", range(3))
def test_many_that_leave_at_random_give_every_slot_back(seed):
  """Some before they are taken in, some while they are, some at the end; the others have their whole answer."""
  model, rng = Fake(slots=3, max_queue=100), random.Random(seed)
  app = app_of(model)

  async def client(number):
    leave, body = asyncio.Event(), {"model": "fake", "prompt": "a" * number, "n": rng.randint(1, 3), "seed": number,
                                    "stream": rng.random() < 0.5, "max_tokens": rng.randint(0, 30)}
    stays = rng.random() < 0.3
    task = asyncio.create_task(ask(app, "POST", COMPLETION, body, leave=leave))
    for _ in range(0 if stays else rng.randint(0, 40)):
      await asyncio.sleep(0)
    if not stays:
      leave.set()
    found = (await asyncio.gather(task, return_exceptions=True))[0]
    return (not stays) or found.status == 200

  async def run():
    return await asyncio.gather(*map(client, range(30)))
  assert all(asyncio.run(run()))
  model.wait_idle()
  assert app.context.lifecycle.requests == 0 and not app.context.lifecycle.running


def test_a_stream_that_fails_before_its_first_event_says_so():
  """Its status is being sent when the server ends."""
  model, sent = Fake(), []
  app = app_of(model)

  async def run():
    body = json.dumps({"model": "fake", "prompt": "a", "stream": True}).encode()
    pending = [{"type": "http.request", "body": body}]
    async def receive():
      return pending.pop() if pending else await asyncio.Event().wait()
    async def send(message):
      sent.append(message)
      for one in list(app.context.lifecycle.running) if len(sent) == 1 else ():
        one.fail("the server is shutting down")
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    model.hold()
    scope = {"type": "http", "method": "POST", "path": COMPLETION, "root_path": "", "headers": headers}
    await app(scope, receive, send)
  asyncio.run(run())
  model.wait_idle()
  assert b"shutting down" in sent[1]["body"] and sent[2]["body"] == b"data: [DONE]\n\n"


def test_a_stream_that_is_not_read_is_cancelled():
  """What waits for a client is bounded; at the bound its slot is freed, and the stream ends with an error."""
  model = Fake(answer=lambda _: b"x" * 10_000)
  app, stuck = app_of(model, max_pending=10, max_tokens=10_000), asyncio.Event()

  async def run():
    body, sent = {"model": "fake", "prompt": "a", "max_tokens": 10_000, "stream": True}, []
    pending = [{"type": "http.request", "body": json.dumps(body).encode()}]
    async def receive():
      if pending:
        return pending.pop()
      return await asyncio.Event().wait()
    async def send(message):
      sent.append(message)
      if len(sent) == 2:
        await stuck.wait()
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    task = asyncio.create_task(app({"type": "http", "method": "POST", "path": COMPLETION, "root_path": "",
                                    "headers": headers}, receive, send))
    await asyncio.to_thread(model.wait_for, lambda: len(model.submitted) == 1)
    await asyncio.to_thread(model.wait_idle)
    stuck.set()
    await task
    return [message.get("body") for message in sent]
  *_, error, done, _ = asyncio.run(run())
  assert b"reads too slowly" in error and done == b"data: [DONE]\n\n" and model.drawn < 10_000
