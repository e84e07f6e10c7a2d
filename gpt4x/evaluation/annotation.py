"""Annotation: labels for records by a probe of a model's features, and which ones a person should look at."""

from collections import Counter
from collections.abc import Sequence
import dataclasses

import numpy as np

from gpt4x.data.text_files import shown
from gpt4x.errors import nearest, UserError
from gpt4x.evaluation import calibration, label_errors, probes, selection
from gpt4x.media.labelled_records import LabelledRecord

FEWEST = 2  # Labelled records of each class: one to learn from, and one to judge by.


def classes_of(records: Sequence[LabelledRecord], named: Sequence[str] | None, label_field: str) -> tuple[str, ...]:
  """The classes, as named or else as found, in order; a UserError if there are too few examples to learn from."""
  seen = dict[str, set[str]]()
  for record in records:
    if record.label is not None:
      if named and record.label not in named:
        raise UserError(f"{shown(record.place)}: the label {record.label!r} is none of --labels"
                        f"{nearest(record.label, named)}")
      seen.setdefault(record.label, set()).add(record.identity)
  classes = tuple(named or sorted(seen))
  if not seen:
    raise UserError(f"no record has a label in {label_field!r}: label at least {FEWEST} of each class by hand, or name"
                    " the field with --label_field")
  if len(classes) < 2:
    raise UserError(f"all labels are {classes[0]!r}, and there is nothing to tell apart: label at least {FEWEST}"
                    " records otherwise")
  if few := [f"{len(seen.get(one, ()))} of {one!r}" for one in classes if len(seen.get(one, ())) < FEWEST]:
    more = f" and {len(few) - 5} more" if len(few) > 5 else ""
    raise UserError(f"too few labelled records that differ in content: {', '.join(few[:5])}{more}: label at least"
                    f" {FEWEST} of each class by hand")
  return classes


@dataclasses.dataclass(frozen=True, eq=False)
class Annotation:
  """What is found of n records and C classes.

  Attributes:
    probabilities: [n, C], calibrated; of labelled records by probes that have seen neither them nor their equals.
    suspects: labelled records whose label is likely wrong, the likeliest error first.
    review: unlabelled records, in the order that a person should look at them.
    measures: of the labelled records, out of fold. `accuracy` is beside `majority`, the share of the commonest label;
      `ece` is the expected calibration error, and `log_loss` in nats, by the probe and, `_calibrated`, by temperatures
      of the other folds; `label_errors` is the share of labels that confident learning takes for wrong.
  """

  probabilities: np.ndarray
  suspects: np.ndarray
  review: np.ndarray
  measures: dict[str, float]


def annotate(features: np.ndarray, labels: np.ndarray, identities: Sequence[str], num_classes: int, *,
             folds: int = 5, review: int = 50, seed: int = 0) -> Annotation:
  """Learns from the labelled records and says what it finds of all.

  Args:
    features: [n, F], on any scale.
    labels: [n], the number of each record's class, or -1 where nobody has labelled it; `classes_of` has found enough.
    identities: of each record: those of one identity are never on both sides of a fold, nor reviewed twice.
    num_classes: C.
    folds: of the cross-validation.
    review: unlabelled records to choose.
    seed: of the folds, and of what is chosen.
  """
  inputs, known = probes.standardized(features), np.flatnonzero(labels >= 0)
  given, names = labels[known], [identities[int(i)] for i in known]
  dealt = probes.deal(given, names, folds, seed)
  unseen = probes.cross_validated(inputs[known], given, num_classes, dealt)
  heat = calibration.temperature(unseen.logits, given)
  probe = next(probes.fit(inputs[known], given, num_classes, [unseen.ridge]))
  probabilities = calibration.scaled(probe.logits(inputs), heat)
  probabilities[known] = calibration.scaled(unseen.logits, heat)
  labelled = set(names)
  first = {name: i for i, name in reversed(list(enumerate(identities)))}
  waiting = np.array(sorted(i for name, i in first.items() if name not in labelled), int)
  chosen = selection.choose(probabilities[waiting], inputs[waiting], review, seed=seed)
  plain, calibrated = calibration.scaled(unseen.logits, 1), calibration.scaled_by_others(unseen.logits, given, dealt)
  confident = label_errors.confident_joint(probabilities[known], given)
  measures = {
      "accuracy": float(np.mean(unseen.logits.argmax(-1) == given)),
      "majority": max(Counter(given.tolist()).values()) / len(given),
      "ece": calibration.expected_calibration_error(plain, given),
      "ece_calibrated": calibration.expected_calibration_error(calibrated, given),
      "log_loss": probes.log_loss(plain, given), "log_loss_calibrated": probes.log_loss(calibrated, given),
      "ridge": unseen.ridge, "temperature": heat,
      "label_errors": 1 - float(np.trace(label_errors.joint(confident, given)))}
  return Annotation(probabilities, known[label_errors.suspects(probabilities[known], given)],
                    waiting[chosen], measures)
