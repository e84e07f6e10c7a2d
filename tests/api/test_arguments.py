"""TrainingArguments: which names there are, and what they are for our own loop."""

import jax.numpy as jnp
import pytest

from gpt4x import TrainingArguments
from gpt4x.checkpoints.manager import CheckpointConfig
from gpt4x.errors import UserError
from gpt4x.training.trackers.tensorboard import TensorBoard


def test_steps_and_periods():
  arguments = TrainingArguments("out", num_train_epochs=2.5, eval_strategy="epoch", save_strategy="no",
                                save_total_limit=2)
  assert arguments.total_steps(10, 4) == 7 and arguments.period("eval", 9, 3) == 3
  assert arguments.checkpoints(3) == CheckpointConfig(2**31 - 1, 2)
  assert TrainingArguments("out", max_steps=5).total_steps(10, 4) == 5
  assert TrainingArguments("out").period("eval", 500, 3) is None
  assert TrainingArguments("out", evaluation_strategy="steps").eval_strategy == "steps"
  assert TrainingArguments("out").trackers == (TensorBoard(),)
  assert TrainingArguments("out", report_to="none").trackers == ()


@pytest.mark.parametrize("kind, expected", [
    ("linear", [0.5, 1.0, 1.0, 0.75]), ("constant", [1.0] * 4), ("constant_with_warmup", [0.5, 1.0, 1.0, 1.0]),
    ("cosine", [0.5, 1.0, 1.0, 0.853553])])
def test_schedules(kind, expected):
  arguments = TrainingArguments("out", learning_rate=1.0, lr_scheduler_type=kind, warmup_ratio=1 / 3)
  schedule = arguments.optimizer(6).schedule
  assert [float(schedule(jnp.asarray(step))) for step in range(4)] == pytest.approx(expected)


def test_the_optimizer():
  arguments = TrainingArguments("out", adam_beta1=0.8, adam_beta2=0.7, adam_epsilon=1e-3, weight_decay=0.2)
  made, given = arguments.optimizer(6)._gpt4x_made_by
  assert made.__name__ == "adamw" and given.items() >= {"b1": 0.8, "b2": 0.7, "eps": 1e-3, "weight_decay": 0.2}.items()


def test_what_has_no_effect_is_said(capsys):
  arguments = TrainingArguments("out", dataloader_num_workers=4, disable_tqdm=True, seed=7)
  assert arguments.seed == 7
  assert capsys.readouterr().err == (
      "gpt4x: TrainingArguments: dataloader_num_workers, disable_tqdm have no effect here\n")


@pytest.mark.parametrize("wrong, message", [
    (dict(learning_rates=1.0), "has no learning_rates here: did you mean learning_rate?"),
    (dict(per_device_train_batch_size=0), "must be a whole number from 1"),
    (dict(eval_strategy="daily"), "use one of no"),
    (dict(lr_scheduler_type="polynomial"), "use one of linear"), (dict(optim="sgd"), "is not AdamW"),
    (dict(report_to="comet"), "there is no comet"), (dict(adam_beta1=1.0), "at least 0 and below 1"),
    (dict(eval_strategy="epoch", evaluation_strategy="steps"), "its older name"), (dict(max_steps=0), "or -1")])
def test_what_is_wrong_is_told(wrong, message):
  with pytest.raises(UserError, match=message.replace("?", r"\?")):
    TrainingArguments("out", **wrong)
