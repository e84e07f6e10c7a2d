"""`gpt4x annotate`: labels records, finds labels that look wrong, and chooses what a person should look at next."""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np

from gpt4x import storage
from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.errors import CommandError, UserError
from gpt4x.evaluation import annotation, label_errors
from gpt4x.evaluation.annotation import Annotation
from gpt4x.experiment import Experiment
from gpt4x.inference.hidden_states import HiddenStates
from gpt4x.launch import lock
from gpt4x.media import labelled_records, record_ids
from gpt4x.media.labelled_records import LabelledRecord
from gpt4x.media.local_media import LocalMedia
from gpt4x.media.medium import MEDIA
from gpt4x.partitioning import Partitioner

LABELLED, REVIEW, SUSPECTS, REPORT = "labelled.jsonl", "review.jsonl", "suspects.jsonl", "report.json"
SUGGESTIONS = 3


def run(arguments: argparse.Namespace) -> None:
  taken = {*MEDIA, "parts", *labelled_records.ADDED} - {"completion"}
  if arguments.label_field in taken:
    raise CommandError(f"--label_field={arguments.label_field} is a field that has another meaning: name another")
  with lock.held(arguments.output):
    print(json.dumps(_annotate(arguments), indent=2))


def _annotate(arguments: argparse.Namespace) -> dict[str, Any]:
  output = storage.path(arguments.output)
  if (output / LABELLED).exists():
    raise UserError(f"{output} has annotations already ({LABELLED}), which a person may have edited: choose another"
                    " --output")
  records = labelled_records.read(arguments.input, arguments.label_field, "--input")
  if not records:
    raise UserError(f'{arguments.input} has no records: write {{"text": "...", "label": "..."}}, an object on each'
                    " line")
  for file in arguments.corrections:
    corrections = labelled_records.read(file, arguments.label_field, "--corrections")
    # A file without a line is that of suspects where there were none.
    if corrections and all(one.label is None and one.predicted is None for one in corrections):
      raise UserError(f"no line of {file} has a label in {arguments.label_field!r}: write some, or leave this"
                      " --corrections out")
    records = labelled_records.corrected(records, corrections)
  classes = annotation.classes_of(records, arguments.labels, arguments.label_field)
  experiment = reading.saved_experiment(arguments.model_dir, data=False)
  step, rows = features(arguments, experiment, records)
  number = {name: i for i, name in enumerate(classes)}
  labels = np.array([-1 if one.label is None else number[one.label] for one in records])
  found = annotation.annotate(rows, labels, [one.identity for one in records], len(classes), folds=arguments.folds,
                              review=arguments.review, seed=arguments.seed)
  suspects = [i for i in found.suspects if not records[i].checked]
  _write(output / REVIEW, (_review_line(records[i], arguments, classes, found.probabilities[i]) for i in found.review))
  margins = label_errors.margins(found.probabilities, np.maximum(labels, 0))
  _write(output / SUSPECTS, (_suspect_line(records[i], arguments, classes, found.probabilities[i], margins[i])
                             for i in suspects))
  report = _report(records, found, len(suspects)) | {"step": step}
  storage.write(output / REPORT, json.dumps(report, indent=2).encode())
  _write(output / LABELLED, _labelled_lines(records, arguments, classes, found))  # Last: it says that all is there.
  if report["accuracy"] <= report["majority"]:
    print(f"gpt4x: warning: the commonest label alone is right for {report['majority']:.1%} of the labelled records,"
          f" and the model for {report['accuracy']:.1%}: do not trust its labels; label more, or name a better"
          " --model_dir", file=sys.stderr)
  return report


def features(arguments: argparse.Namespace, experiment: Experiment,
              records: Sequence[LabelledRecord]) -> tuple[int, np.ndarray]:
  """The step of the checkpoint, and what its model makes of each record, [n, F]; of equal records once."""
  model, vocabulary = experiment.language_model, vocabularies.load(arguments.model_dir)
  places = dict[str, int]()
  for i, one in enumerate(records):
    places.setdefault(one.identity, i)
  ids = record_ids.encode([(records[i].place, records[i].parts) for i in places.values()], vocabulary,
                          dataclasses.asdict(LocalMedia()))
  known = range(vocabularies.first_text_id(vocabulary), model.config.vocab_size)
  for i, some in zip(places.values(), ids):
    if wrong := [token for token in some if token not in known]:
      raise UserError(f"{records[i].place} has the token {wrong[0]}, and the model knows {known.start} to"
                      f" {known.stop - 1}: copy the vocabulary that it was trained with into {arguments.model_dir}")
  step, params = experiment.restore_params(arguments.model_dir, Partitioner(data=1, num_devices=1), arguments.step)
  states = HiddenStates(model, experiment.decoding_window(), vocabularies.start_id(vocabulary),
                        experiment.dataset.feature_converter == "prefix_lm")
  rows = dict(zip(places, states(params, [some.tolist() for some in ids])))
  return step, np.stack([rows[one.identity] for one in records])


def _labelled_lines(records: Sequence[LabelledRecord], arguments: argparse.Namespace, classes: Sequence[str],
                    found: Annotation) -> Iterable[dict[str, Any]]:
  for record, row in zip(records, found.probabilities):
    label = classes[row.argmax()] if record.label is None else record.label
    added: dict[str, Any] = {"confidence": round(float(row[classes.index(label)]), 4),
                             "source": "model" if record.label is None else "given"}
    added |= {"checked": True} if record.checked else {}
    yield labelled_records.training_line(record, arguments.output, arguments.label_field, label, **added)


def _review_line(record: LabelledRecord, arguments: argparse.Namespace, classes: Sequence[str],
                 row: np.ndarray) -> dict[str, Any]:
  first = {arguments.label_field: None, "suggestions": _suggestions(classes, row)}
  return labelled_records.line(record, arguments.output, first)


def _suspect_line(record: LabelledRecord, arguments: argparse.Namespace, classes: Sequence[str], row: np.ndarray,
                  margin: float) -> dict[str, Any]:
  suggestions = _suggestions(classes, row)
  first = {arguments.label_field: record.label, "suggested": next(iter(suggestions)), "checked": False,
           "margin": round(float(margin), 4), "suggestions": suggestions}
  return labelled_records.line(record, arguments.output, first)


def _suggestions(classes: Sequence[str], row: np.ndarray) -> dict[str, float]:
  return {classes[i]: round(float(row[i]), 4) for i in np.argsort(-row, kind="stable")[:SUGGESTIONS]}


def _report(records: Sequence[LabelledRecord], found: Annotation, suspects: int) -> dict[str, Any]:
  given = Counter(one.label for one in records if one.label is not None)
  return {"records": len(records), "given": sum(given.values()), "checked": sum(one.checked for one in records),
          "predicted": len(records) - sum(given.values()), "labels": dict(sorted(given.items())),
          "review": len(found.review), "suspects": suspects,
          **{name: float(f"{value:.4g}") for name, value in found.measures.items()}}


def _write(path: pathlib.Path, lines: Iterable[dict[str, Any]]) -> None:
  storage.write(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
