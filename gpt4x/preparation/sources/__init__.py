"""Stub"""
import json

from gpt4x.preparation.document import Document


def read(path, name, bad, field):
  if path.endswith(".jsonl"):
    for number, line in enumerate(open(path), 1):
      yield Document(f"{name}:{number}", json.loads(line)[field])
  else:
    yield Document(f"{name}:1", open(path).read())
