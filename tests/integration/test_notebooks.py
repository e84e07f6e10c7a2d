"""Every notebook runs from top to bottom, with few steps."""

import json
import sys
import types


def test_train_tiny(repository, tmp_path, monkeypatch, capsys):
  cells = json.loads((repository / "notebooks" / "train_tiny.ipynb").read_text())["cells"]
  code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
  assert "steps = 200" in code
  shown = []
  display = types.SimpleNamespace(Image=lambda path: path, display=shown.append)
  monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(version_info=(9, 0)))  # Matplotlib asks for it.
  monkeypatch.setitem(sys.modules, "IPython.display", display)
  monkeypatch.chdir(tmp_path)
  code = code.replace("steps = 200", "steps = 2")
  code = code.replace("'EVAL_STEPS=20'", "'EVAL_STEPS=2', 'train.final_eval_batches=2'")
  exec(compile(code, "notebook", "exec"), {})
  assert shown == ["runs/notebook/loss.png"] and (tmp_path / shown[0]).exists()
  printed = capsys.readouterr().out
  assert "def main(" in printed and "(2, 64, 384) 2,066,496 parameters" in printed
