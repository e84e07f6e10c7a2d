"""Chat templates: how a conversation is written, in jinja2 as Hugging Face has it.

A template sees marks in the places of what people say, so it is known which text is its own. Only there a tokenizer
finds special tokens: nobody can end a turn by writing `<|im_end|>`.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import datetime
import functools
import json
import os
import re
from typing import Any, NamedTuple, NoReturn, TYPE_CHECKING

import gin

from gpt4x import run_directory, storage
from gpt4x.data.local_text import LocalText
from gpt4x.errors import one_line, UserError

if TYPE_CHECKING:
  import seqio

Message = Mapping[str, str]  # {"role", "content"}

# For models without a template of their own. The end of an answer is the end of a document.
DEFAULT = """\
{%- for message in messages -%}
<|{{ message.role }}|>
{{ message.content }}{{ eos_token if message.role == "assistant" else "" }}
{% endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{% endif -%}
"""
ASSISTANT = "assistant"

# What stands for a message's content, and for the ends of a document: private characters around a name.
_MARK = "\ue000{}\ue001"
_CONTENT, _ENDS = re.compile("\ue000(\\d+)\ue001"), re.compile("\ue000(bos|eos)\ue001")


class Piece(NamedTuple):
  """A part of a written conversation."""

  text: str  # Of a token, its name: 'bos' or 'eos'.
  kind: str  # 'template', 'content' or 'token'.
  answer: bool  # Whether the model is to write it.


class Template:
  """A chat template that was read."""

  def __init__(self, text: str = DEFAULT, where: str = "the default chat template"):
    """Takes the jinja text, and what it is called in messages. Only where it is to write something is it parsed: a
    model whose template does not do here can still be trained on other text."""
    self.text, self._where = text, where

  def pieces(self, messages: Sequence[Message], generation: bool = False) -> list[Piece]:
    """A conversation in pieces; with `generation` the last of them begins the model's next answer.

    An answer is what an assistant says, and what the template writes to end it. A UserError if the template leaves a
    message out, has another order, or ends answers in several ways.
    """
    text, place, found = self._render(messages, generation), 0, list[Piece]()
    for number, message in enumerate(messages):
      mark = _CONTENT.search(text, place)
      if mark is None or int(mark[1]) != number:
        raise UserError(f"{self._where} does not write message {number + 1} of {len(messages)}, of the role"
                        f" {message['role']!r}, in its place: use another template, or leave such messages out")
      answer = message["role"] == ASSISTANT
      found += [*_own(text[place:mark.start()], False), Piece(message["content"], "content", answer)]
      place = mark.end()
      if answer:
        if not text.startswith(self._closing, place):
          raise UserError(f"{self._where} ends the answer in message {number + 1} otherwise than a last one: use a"
                          " template that ends all answers alike")
        found += _own(self._closing, True)
        place += len(self._closing)
    return found + _own(text[place:], False)

  def stop(self, vocabulary: "seqio.Vocabulary") -> tuple[int | None, str]:
    """What ends an answer: a token's id; or None, and the text that does."""
    ids = encode(_own(self._closing, True), vocabulary)[0]
    return (ids[0], "") if len(ids) == 1 else (None, "".join(piece.text for piece in _own(self._closing, True)
                                                             if piece.kind == "template"))

  @functools.cached_property
  def _closing(self) -> str:
    """What is written behind an answer: all that a template does not only to begin a new line, if there is more."""
    text = self._render([{"role": "user"}, {"role": ASSISTANT}], generation=False)
    *_, last = [None, *_CONTENT.finditer(text)]
    if last is None or last[1] != "1":
      raise UserError(f"{self._where} writes no answer of the role {ASSISTANT!r}: use another template")
    behind = text[last.end():]
    closing = behind.rstrip() or behind
    if not closing:
      raise UserError(f"{self._where} writes nothing behind an answer, so none would end: let it write eos_token there")
    return closing

  def _render(self, messages: Sequence[Mapping[str, str]], generation: bool) -> str:
    marked = [{**message, "content": _MARK.format(number)} for number, message in enumerate(messages)]
    try:
      return self._compiled.render(messages=marked, add_generation_prompt=generation, bos_token=_MARK.format("bos"),
                                   eos_token=_MARK.format("eos"))
    except Exception as error:  # Whatever the code of a template does.
      raise UserError(f"{self._where} cannot write this conversation ({one_line(error)}): correct its messages, or use"
                      " another template") from error

  @functools.cached_property
  def _compiled(self) -> Any:
    from jinja2 import ext, sandbox
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                        extensions=[ext.loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    try:
      return environment.from_string(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", self.text))
    except Exception as error:  # Jinja's own has several classes.
      raise UserError(f"{self._where} is no jinja template ({one_line(error)}): correct it") from error


def _refuse(message: str) -> NoReturn:
  raise ValueError(message)


def _now(form: str) -> str:
  return datetime.datetime.now().strftime(form)


def _own(text: str, answer: bool) -> list[Piece]:
  """The pieces of what a template writes itself."""
  parts = _ENDS.split(text)  # Texts, with names of tokens between them.
  return [Piece(part, "token" if number % 2 else "template", answer) for number, part in enumerate(parts) if part]


def encode(pieces: Sequence[Piece], vocabulary: "seqio.Vocabulary", begins: bool = True,
           contents: Iterable[Sequence[int]] | None = None) -> tuple[list[int], list[bool]]:
  """The ids of pieces, and whether each is to be written by the model.

  What begins a document has no id in it: it is the input before the first one. `begins` says that the pieces do.
  `contents` are the ids of the messages' contents in their order, where these are more than their text.
  """
  ids, answers = list[int](), list[bool]()
  encoded = None if contents is None else iter(contents)
  for piece in pieces:
    if piece.kind == "token":
      known = getattr(vocabulary, "bos_id", None) if piece.text == "bos" else vocabulary.eos_id
      new = [] if known is None or (piece.text == "bos" and begins and not ids) else [known]
    else:
      of_content = lambda text: vocabulary.encode(text) if encoded is None else next(encoded)
      new = list(of_content(piece.text) if piece.kind == "content" else _encode_own(vocabulary, piece.text))
    ids += new
    answers += [piece.answer] * len(new)
  return ids, answers


def _encode_own(vocabulary: Any, text: str) -> Sequence[int]:
  """The ids of a template's own text, special tokens among them."""
  vocabulary = getattr(vocabulary, "text", vocabulary)  # Of one with media.
  return getattr(vocabulary, "encode_special", vocabulary.encode)(text)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """How the conversations of tasks are written.

  Attributes:
    source: a jinja file, or a model directory that has one; None: that of `LocalText.tokenizer`, if it has one, or else
      the default.
  """

  source: str | None = None

  def read(self) -> Template:
    if self.source is None:
      directory = LocalText().tokenizer
      return (of_run(directory) if directory else None) or Template()
    path = storage.path(self.source)
    if path.is_dir():
      path /= run_directory.CHAT_TEMPLATE
    try:
      return Template(storage.read_bytes(path).decode("utf-8"), str(path))
    except FileNotFoundError:
      raise UserError(f"ChatTemplate.source = {self.source!r} has no {path.name}: name a jinja file, or a model"
                      " directory with one") from None
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f"ChatTemplate.source = {self.source!r} cannot be read ({one_line(error)}): name"
                      " another") from error


def of_run(model_dir: str | os.PathLike) -> Template | None:
  """The template that a model directory keeps, if it has one."""
  path = storage.path(model_dir) / run_directory.CHAT_TEMPLATE
  content = storage.read(path)
  return None if content is None else Template(content.decode("utf-8", "replace"), str(path))
