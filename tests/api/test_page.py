"""The Python of docs/hugging-face-style.md runs, with small models under the names that it has."""

import functools
import re

from gpt4x.api import trainer
from tests.api import small


def test_the_python_of_the_page_runs(repository, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  one_device = functools.partial(trainer.Partitioner, data=1, num_devices=1)  # Which compiles faster.
  monkeypatch.setattr(trainer, "Partitioner", one_device)
  small.make_tokenizer().save_pretrained("gpt4")
  small.make_model(n_positions=40).save_pretrained("gpt4")
  (tmp_path / "train.txt").write_text("so much depends upon a red wheel barrow " * 16)
  (tmp_path / "eval.txt").write_text("glazed with rain water beside the white chickens " * 4)
  page = (repository / "docs" / "hugging-face-style.md").read_text()
  code = "".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
  exec(compile(code, "docs/hugging-face-style.md", "exec"), {})
  assert (tmp_path / "runs" / "mine-model" / "checkpoints" / "0").exists()
  assert "dict_keys" in capsys.readouterr().out
