"""Records of conversations, each a line of JSON, and the tokens that a task makes of one.

  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
  {"prompt": "...", "completion": "..."}                     also lists of messages
  {"prompt": "...", "chosen": "...", "rejected": "..."}      for a preference; without a prompt, lists of messages

Messages are written by a chat template. A prompt and an answer that are both texts are taken as they are, without one;
beside a list of messages, a text is one.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any, Literal, NamedTuple, TYPE_CHECKING

from gpt4x.data import chat_template
from gpt4x.data.chat_template import ASSISTANT, Message, Template

if TYPE_CHECKING:
  import seqio

# What is trained on: all answers of a conversation; its last, as far as there is one; which of two is better.
Kind = Literal["answers", "prompts", "preferences"]
EXAMPLES = {"answers": '{"prompt": "...", "completion": "..."} or {"messages": [...]}', "prompts": '{"prompt": "..."}',
            "preferences": '{"prompt": "...", "chosen": "...", "rejected": "..."}'}
_ANSWERS = {"answers": ("completion",), "prompts": ("completion",), "preferences": ("chosen", "rejected")}
_Part = str | list[Message]


class Record(NamedTuple):
  """What was said before the answers, and these: one, none, or the better and the worse."""

  prompt: _Part
  answers: tuple[_Part, ...]
  whole: bool = False  # Whether what an assistant says in the prompt is an answer, too.

  @property
  def group(self) -> str:
    """What records that belong on one side of a split have in common."""
    return self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt[:1] or self.answers)


class Written(NamedTuple):
  """The ids of a text, and whether each is to be written by the model."""

  ids: list[int]
  weights: list[bool]


def parse(line: Mapping[str, Any], kind: Kind) -> Record:
  """A record of a JSON object; a ValueError says what is wrong with it."""
  if "messages" in line and kind != "preferences":
    messages = _messages(line["messages"], "messages")
    if messages and messages[-1]["role"] == ASSISTANT:
      return _checked(Record(messages[:-1], ([messages[-1]],), whole=kind == "answers"), kind)
    if kind == "prompts":
      return Record(messages, ())
    raise ValueError("its messages do not end with an answer of the role 'assistant': add one, or take out what is"
                     " behind the last")
  answers = tuple(_part(line, name) for name in _ANSWERS[kind] if name in line)
  needed = {"answers": 1, "prompts": 0, "preferences": 2}[kind]
  if len(answers) < needed or "prompt" not in line and (kind != "preferences" or any(map(_is_text, answers))):
    raise ValueError(f"it has {', '.join(repr(name[:30]) for name in list(line)[:5]) or 'nothing'}: write"
                     f" {EXAMPLES[kind]}")
  return _checked(_alike(_part(line, "prompt") if "prompt" in line else [], answers), kind)


def _checked(record: Record, kind: Kind) -> Record:
  for answer in record.answers:
    if not answer or (not isinstance(answer, str) and answer[-1]["role"] != ASSISTANT):
      raise ValueError("it has an answer without text, or that the role 'assistant' does not end: correct it")
  if kind == "preferences" and record.answers[0] == record.answers[1]:
    raise ValueError("its chosen and rejected answers are the same: take it out")
  return record


def _alike(prompt: _Part, answers: tuple[_Part, ...]) -> Record:
  """Texts, or messages where one of them is."""
  if all(map(_is_text, (prompt, *answers))) and answers:
    return Record(prompt, answers)
  as_messages = lambda part, role: [{"role": role, "content": part}] if _is_text(part) else part
  if not answers:
    return Record(prompt, ())
  return Record(as_messages(prompt, "user"), tuple(as_messages(answer, ASSISTANT) for answer in answers))


def _is_text(part: _Part) -> bool:
  return isinstance(part, str)


def _part(line: Mapping[str, Any], name: str) -> _Part:
  value = line[name]
  if isinstance(value, str):
    value.encode()  # JSON can spell half a surrogate pair, which is no text.
    return value
  return _messages(value, name)


def _messages(value: Any, name: str) -> list[Message]:
  if not isinstance(value, list) or not all(
      isinstance(one, dict) and isinstance(one.get("role"), str) for one in value):
    raise ValueError(f'its "{name}" is no list of messages such as {{"role": "user", "content": "..."}}: correct it')
  return [{"role": one["role"], "content": _content(one.get("content"), name)} for one in value]


def _content(value: Any, name: str) -> str:
  """The text of a message: some have it in parts."""
  if isinstance(value, list) and all(isinstance(one, dict) and one.get("type") == "text" for one in value):
    value = "".join(str(one.get("text", "")) for one in value)
  if not isinstance(value, str):
    raise ValueError(f'a message of its "{name}" has no text as its content: correct it')
  value.encode()
  return value


def tokens(record: Record, kind: Kind, template: Template, vocabulary: "seqio.Vocabulary") -> list[Written]:
  """What a row holds of a record: one sequence, or the better and the worse.

  Where only the last answer is to be written, that of 'prompts' is a reference, as plain text: what a reward function
  gets beside what the model writes.
  """
  if kind != "prompts":
    return [_written(record, answer, template, vocabulary) for answer in record.answers]
  answer = record.answers[0] if record.answers else ""
  reference = list(vocabulary.encode(answer if isinstance(answer, str) else answer[-1]["content"]))
  if isinstance(record.prompt, str):
    prompt = list(vocabulary.encode(record.prompt))
  else:
    before = [] if isinstance(answer, str) else answer[:-1]
    prompt = chat_template.encode(template.pieces([*record.prompt, *before], generation=True), vocabulary)[0]
  return [Written(prompt + reference, [False] * len(prompt) + [True] * len(reference))]


def _written(record: Record, answer: _Part, template: Template, vocabulary: "seqio.Vocabulary") -> Written:
  """A prompt and its answer, with what ends that; whatever the template writes behind is left out."""
  if isinstance(record.prompt, str) or isinstance(answer, str):
    assert isinstance(record.prompt, str) and isinstance(answer, str)
    prompt, ids = list(vocabulary.encode(record.prompt)), list(vocabulary.encode(answer))
    ids += [] if vocabulary.eos_id is None else [vocabulary.eos_id]
    return Written(prompt + ids, [False] * len(prompt) + [True] * len(ids))
  pieces = template.pieces([*record.prompt, *answer])
  end = 1 + max(number for number, piece in enumerate(pieces) if piece.answer)
  given, contents, kept = 0 if record.whole else len(record.prompt), 0, list[chat_template.Piece]()
  for piece in pieces[:end]:
    contents += piece.kind == "content"
    kept.append(piece._replace(answer=piece.answer and contents > given))
  return Written(*chat_template.encode(kept, vocabulary))


def flat(sequences: Sequence[Written]) -> tuple[list[int], list[bool], list[int]]:
  """The ids, the weights, and the number of the sequence, from 1, of each token of a row."""
  ids = [token for one in sequences for token in one.ids]
  weights = [weight for one in sequences for weight in one.weights]
  return ids, weights, [number for number, one in enumerate(sequences, 1) for _ in one.ids]
