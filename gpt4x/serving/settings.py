"""The limits of the HTTP side, each of which a test can make small."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is allowed, and how long it may take.

  Attributes:
    keys: any of which a request has to bring; without any, none is asked for.
    hosts: names in a request's Host header, in lower case and without a port; IPv6 without brackets.
    max_body: bytes of a request's body.
    max_headers: bytes of a request's line and headers together.
    max_header_count: headers of a request.
    max_depth: how deep lists and objects of JSON may nest.
    max_n: continuations of each prompt.
    max_prompts: prompts of a request, or messages of a conversation times eight.
    max_inputs: texts of a request for embeddings.
    max_prompt: tokens of a prompt.
    max_tokens: tokens of a continuation.
    max_connections: that are open at a time; more are answered 503 and closed.
    max_requests: that are worked on at a time.
    max_waiting_embeddings: requests for embeddings that wait for their turn.
    max_waiting_media: conversations with images or sounds that wait for theirs.
    max_pending: events of a stream that wait for a client to read; more, and it is cancelled.
    header_seconds: from a connection, or from the last answer on it, to the whole of the next request's headers.
    body_seconds: for a body.
    send_seconds: how long a client may read nothing while there is something to read.
    grace: seconds that streams have to finish in after SIGTERM.
  """

  keys: tuple[bytes, ...] = dataclasses.field(default=(), repr=False)
  hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
  max_body: int = 4 * 2**20
  max_headers: int = 16 * 2**10
  max_header_count: int = 64
  max_depth: int = 32
  max_n: int = 16
  max_prompts: int = 128
  max_inputs: int = 2048
  max_prompt: int = 2**17
  max_tokens: int = 2**14
  max_connections: int = 1024
  max_requests: int = 512
  max_waiting_embeddings: int = 64
  max_waiting_media: int = 64
  max_pending: int = 4096
  header_seconds: float = 15.0
  body_seconds: float = 30.0
  send_seconds: float = 30.0
  grace: float = 30.0
