"""Chat templates: what is written, whose words are whose, and what ends an answer."""

import json

import pytest
import seqio
import tokenizers

from gpt4x.data.chat_template import ChatTemplate, encode, of_run, Template
from gpt4x.data.vocabularies import HuggingFaceVocabulary
from gpt4x.errors import UserError

CHAT_ML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}{% endif %}
"""
ENDS = """{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}
[INST] {{ message.content }} [/INST]
{%- elif message.role == 'assistant' %} {{ message.content | trim }} {{ eos_token }}
{%- else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"""
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"},
            {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me"}]


def written(template: Template, messages, **options) -> str:
  return "".join(piece.text if piece.kind != "token" else f"<{piece.text}>" for piece in template.pieces(
      messages, **options))


def answered(template: Template, messages) -> list[str]:
  """The parts that a model is to write, as far as they lie together."""
  parts, last = list[str](), False
  for piece in template.pieces(messages):
    if piece.answer:
      parts = [*parts[:-1], parts[-1] + piece.text] if last else [*parts, piece.text]
    last = piece.answer
  return parts


@pytest.mark.parametrize("text, expected, answers", [
    (CHAT_ML, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nGood day<|im_end|>\n<|im_start|>user\nWho?"
     "<|im_end|>\n<|im_start|>assistant\nMe<|im_end|>\n", ["Good day<|im_end|>", "Me<|im_end|>"]),
    (ENDS, "<bos>[INST] Hello [/INST] Good day <eos>[INST] Who? [/INST] Me <eos>", ["Good day eos", "Me eos"]),
    (None, "<|user|>\nHello\n<|assistant|>\nGood day<eos>\n<|user|>\nWho?\n<|assistant|>\nMe<eos>\n",
     ["Good dayeos", "Meeos"])])
def test_a_conversation_is_written_as_the_template_says(text, expected, answers):
  template = Template(text) if text else Template()
  assert written(template, MESSAGES) == expected
  assert answered(template, MESSAGES) == answers


def test_an_answer_begins_behind_the_prompt_of_generation():
  template = Template(CHAT_ML)
  prompt = written(template, MESSAGES[:1], generation=True)
  assert prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
  assert written(template, MESSAGES[:2]).startswith(prompt + "Good day")


def test_pieces_of_a_longer_conversation_begin_with_those_of_a_shorter():
  for template in (Template(CHAT_ML), Template(), Template(ENDS)):
    shorter, longer = template.pieces(MESSAGES[:2]), template.pieces(MESSAGES)
    end = 1 + max(number for number, piece in enumerate(shorter) if piece.answer)
    assert longer[:end] == shorter[:end]


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer() -> HuggingFaceVocabulary:
  """Bytes, with special tokens of ChatML."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={one: i for i, one in enumerate(alphabet)}, merges=[]))
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  made.add_special_tokens(["<|im_start|>", "<|im_end|>", "<s>"])
  return HuggingFaceVocabulary.from_bytes(made.to_str().encode(), "tokenizer.json", eos="<|im_end|>", bos="<s>")


def test_only_the_template_writes_special_tokens(tokenizer):
  """Whoever writes one in a message writes text."""
  start, end = (tokenizer._tokenizer.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>"))
  template = Template(CHAT_ML)
  ids, answers = encode(template.pieces([{"role": "user", "content": "a<|im_end|>"}, MESSAGES[1]]), tokenizer)
  assert ids.count(start) == 2 and ids.count(end) == 2
  assert tokenizer.decode([one for one, answer in zip(ids, answers) if answer]) == "Good day"
  assert [one for one, answer in zip(ids, answers) if answer][-1] == end
  assert template.stop(tokenizer) == (end, "")


def test_a_document_begins_once(tokenizer):
  """The input before the first token is the one that begins a document, so the template's has no id."""
  ids, _ = encode(Template(ENDS).pieces(MESSAGES), tokenizer)
  assert tokenizer.bos_id not in ids
  ids, _ = encode(Template(ENDS).pieces(MESSAGES), tokenizer, begins=False)
  assert ids[0] == tokenizer.bos_id


def test_an_answer_in_bytes_ends_with_the_document():
  vocabulary = seqio.ByteVocabulary()
  assert Template().stop(vocabulary) == (vocabulary.eos_id, "")
  assert Template(CHAT_ML).stop(vocabulary) == (None, "<|im_end|>")
  ids, answers = encode(Template().pieces(MESSAGES[:2]), vocabulary)
  assert bytes(one - 3 for one in ids if one >= 3) == b"<|user|>\nHello\n<|assistant|>\nGood day\n"
  assert [one for one, answer in zip(ids, answers) if answer] == [*vocabulary.encode("Good day"), vocabulary.eos_id]


@pytest.mark.parametrize("text, messages, message", [
    ("{% for", MESSAGES, "no jinja template"),
    (ENDS, [{"role": "system", "content": "Be brief"}], "only user and assistant"),
    ("{% for message in messages %}{% if message.role != 'tool' %}{{ message.content }}.{% endif %}{% endfor %}",
     [MESSAGES[0], {"role": "tool", "content": "1"}], "does not write message 2 of 2, of the role 'tool'"),
    ("{% for message in messages %}{{ message.content }}{% if loop.last %}E{% endif %}{% endfor %}", MESSAGES,
     "ends the answer in message 2 otherwise"),
    ("{% for message in messages %}{{ message.content }}{% endfor %}", MESSAGES, "nothing behind an answer"),
    ("{{ messages[0].content }}{{ ''.__class__.__mro__ }}", MESSAGES[:1], "cannot write this conversation"),
])
def test_a_template_that_does_not_do(text, messages, message):
  with pytest.raises(UserError, match=message) as found:
    Template(text, "t.jinja").pieces(messages)
  assert str(found.value).startswith("t.jinja") and "\n" not in str(found.value)


def test_generation_blocks_are_read_over():
  """With which others mark what is to be trained on."""
  text = CHAT_ML.replace("message['content']", "message['content']")
  marked = text.replace("{{ '<|im_start|>'", "{% generation %}{{ '<|im_start|>'", 1)
  assert written(Template(marked.replace("'\\n' }}", "'\\n' }}{% endgeneration %}", 1)), MESSAGES)


def test_a_template_is_found_where_gin_says(tmp_path):
  assert ChatTemplate().read().text == Template().text
  (tmp_path / "chat_template.jinja").write_text(CHAT_ML)
  assert ChatTemplate(str(tmp_path)).read().text == CHAT_ML
  assert ChatTemplate(str(tmp_path / "chat_template.jinja")).read().text == CHAT_ML
  assert of_run(tmp_path).text == CHAT_ML and of_run(tmp_path / "other") is None
  with pytest.raises(UserError, match=r"ChatTemplate.source = .* has no other.jinja"):
    ChatTemplate(str(tmp_path / "other.jinja")).read()


def test_json_keeps_its_letters():
  template = Template("{% for message in messages %}{{ {'é': 1} | tojson }}{{ message.content }};{% endfor %}")
  assert written(template, MESSAGES[:1]) == json.dumps({"é": 1}, ensure_ascii=False) + "Hello;"
