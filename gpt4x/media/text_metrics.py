"""What a task's answers are judged by, as metrics of seqio."""

from collections.abc import Sequence


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """The share of answers that are those wanted, but for blanks around them."""
  right = [target.strip() == prediction.strip() for target, prediction in zip(targets, predictions)]
  return {"accuracy": sum(right) / max(len(right), 1)}


def word_error_rate(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Words to be put in, left out or replaced, for each word that is wanted; above 1 where there are too many."""
  import editdistance

  pairs = [(target.split(), prediction.split()) for target, prediction in zip(targets, predictions)]
  errors = sum(editdistance.eval(target, prediction) for target, prediction in pairs)
  return {"word_error_rate": errors / max(sum(len(target) for target, _ in pairs), 1)}
