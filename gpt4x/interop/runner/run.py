"""Continues a text with the model in this file's folder: python run.py --prompt="Once upon" --max_tokens=100

Needs numpy, what decoder.py imports, and for subwords sentencepiece or tokenizers. The model takes tokens and a ring of
keys and values of the last W positions; it gives the next token's logits and what belongs into the new tokens' slots.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import zlib

import numpy as np

HERE = pathlib.Path(__file__).parent
TOKENS = {"tokens", "segment_ids", "index"}


class Model:
  """The model and its ring; called with tokens it gives the logits [V] of the one after them."""

  def __init__(self, config, load):
    (self.run, shapes, vocab_size), self.index = load(HERE, config), 0
    self.window, self.chunk = config["window"], config["chunk"]
    ring = {name: [1, *shape[1:]] for name, shape in shapes.items() if name not in TOKENS}
    if (ring, vocab_size) != (config["cache"], config["vocab_size"]) or not 1 <= self.chunk <= self.window or (
        ring["cache_segment_ids"] != [1, self.window]):
      sys.exit("run.py: config.json does not fit the model: copy the folder again")
    self.cache = {name: np.zeros(shape, np.float32 if shape[2:] else np.int32) for name, shape in ring.items()}

  def read(self, tokens):
    """A prompt of any length, in chunks; the first is padded at its front."""
    rows = [(0, 0)] * (-len(tokens) % self.chunk) + [(token, 1) for token in tokens]
    for start in range(0, len(rows), self.chunk):
      logits = self(*zip(*rows[start:start + self.chunk]))
    return logits

  def __call__(self, tokens, real=(1,)):
    tokens, real = np.array([tokens], np.int32), np.array([real], np.int32)
    slots = (self.index + np.arange(tokens.size)) % self.window
    out = self.run({"tokens": tokens, "segment_ids": real, "index": np.array(self.index, np.int32), **self.cache})
    out.setdefault("new_cache_segment_ids", real)
    for name, ring in self.cache.items():
      if name in out:
        self.cache[name] = out[name]  # It is moved on where it lies, on a device.
      else:  # The axis of slots is the last, but for values.
        ring[(..., slots, slice(None)) if name.startswith("values") else (..., slots)] = out[f"new_{name}"]
    self.index = (self.index + tokens.size) % self.window
    return np.asarray(out["logits"])[0]


def vocabulary():
  """(encode, decode): text to ids and back."""
  kind = json.loads((HERE / "vocabulary.json").read_text("utf-8"))["class"]
  if kind == "ByteVocabulary":
    return (lambda text: [byte + 3 for byte in text.encode("utf-8", "replace")],
            lambda ids: bytes(i - 3 for i in ids if 3 <= i < 259).decode("utf-8", "ignore"))
  if kind == "HuggingFaceVocabulary":
    import tokenizers
    made = tokenizers.Tokenizer.from_file(str(HERE / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True
    if getattr(made.model, "dropout", None):
      made.model.dropout = None
    return lambda text: made.encode(text, add_special_tokens=False).ids, made.decode
  if kind == "WordVocabulary":
    words = (HERE / "words.txt").read_text("utf-8").removesuffix("\n").split("\n")
    ids = {word: i for i, word in enumerate(words)}
    end, unknown = "\n <eos> " if "<eos>" in ids else "\n", ids.get("<unk>", ids.get("<UNK>", -1))
    return (lambda text: [ids.get(word, unknown) for word in text.replace("\n", end).split()],
            lambda found: "\n".join(" ".join(line.split()) for line in " ".join(
                "\n" if words[i] == "<eos>" else words[i] for i in found).split("\n")))
  if kind not in ("SentencePieceVocabulary", "LosslessSentencePieceVocabulary"):
    sys.exit(f"run.py: vocabulary.json has the class {kind!r}, which is unknown: copy the folder again")
  import sentencepiece
  model, space = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "sentencepiece.model")), "\u2581"
  if kind == "SentencePieceVocabulary":
    return model.encode, model.decode
  spelled = [model.piece_to_id(f"<0x{byte:02X}>") for byte in space.encode()]  # Else it would be read as a blank.
  return lambda text: sum((spelled + model.encode(part) for part in text.split(space)), [])[3:], model.decode


def generate(config, ids, temperature, seed):
  """Yields the tokens behind the prompt's; ends with the document."""
  from decoder import load  # Beside this file.
  model, draw = Model(config, load), np.random.default_rng(seed)
  logits = model.read([config["bos_id"], *ids])
  while True:
    allowed = logits[config["first_id"]:config["end_id"]].astype(np.float64)
    if temperature:
      allowed = (allowed - allowed.max()) / temperature + draw.gumbel(size=allowed.shape)
    token = int(np.argmax(allowed)) + config["first_id"]
    if token == config["eos_id"]:
      return
    yield token
    logits = model([token])


def pieces(decode, ids, tokens):
  """Yields the text of tokens behind a prompt's ids, a whole character or more at a time."""
  ids, context, known, before, text = list(ids), 0, len(ids), "", ""
  for token in tokens:
    ids.append(token)
    before, text = decode(ids[context:known]), decode(ids[context:])  # A piece may depend on the one before.
    if len(text) > len(before) and not text.endswith("\ufffd"):
      yield text[len(before):]
      context, known, before, text = known, len(ids), "", ""
  yield text.rstrip("\ufffd")[len(before):]


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--prompt", default="", help="the text to continue")
  parser.add_argument("--max_tokens", type=int, default=256)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--temperature", type=float, default=1.0, help="0 always takes the likeliest token")
  flags = parser.parse_args()
  if flags.max_tokens < 1 or flags.seed < 0 or not 0 <= flags.temperature < np.inf:
    sys.exit("run.py: --max_tokens must be at least 1, --seed and --temperature at least 0")
  config = json.loads((HERE / "config.json").read_text("utf-8"))
  if config["version"] != 1:
    sys.exit(f"run.py: config.json has version {config['version']}, and this is run.py of version 1: copy both again")
  for name, known in config["files"].items():
    if [(HERE / name).stat().st_size, zlib.crc32(np.memmap(HERE / name, np.uint8, "r").data)] != known:
      sys.exit(f"run.py: {name} is damaged: copy it again")
  encode, decode = vocabulary()
  ids = encode(flags.prompt)
  if wrong := [i for i in ids if not config["first_id"] <= i < config["vocab_size"]]:
    sys.exit(f"run.py: the prompt has a word or token that the model does not know ({wrong[0]}): change it")
  found = pieces(decode, ids, itertools.islice(generate(config, ids, flags.temperature, flags.seed), flags.max_tokens))
  print(flags.prompt, next(found), sep="", end="", flush=True)  # Errors come before the prompt is repeated.
  for piece in found:
    print(piece, end="", flush=True)
  print()


if __name__ == "__main__":
  try:
    getattr(sys.stdout, "reconfigure", dict)(errors="replace")
    main()
  except (KeyboardInterrupt, BrokenPipeError) as error:
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 141)
  except ImportError as error:
    sys.exit(f"run.py: {error}: install it with pip")
  except Exception as error:  # Of any library: a folder may have been damaged in any way.
    sys.exit(f"run.py: this folder cannot be used, copy it again: {type(error).__name__} {error}".replace("\n", " "))
