"""Files of each format: what is chosen, what is read, and what is said of damage."""

import bz2
import datetime
import gzip
import io
import json
import lzma

import pyarrow
from pyarrow import parquet
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation import sources

PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": lambda data: bz2.compress(data, 1), ".xz": lzma.compress,
           ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True)}
LINES = (b'{"text": "one\\r\\ntwo", "url": "http://a/", "n": [1, {"x": null}]}\n\n{"text": "t\\u00fcw\\n"}\r\n'
         b'{"text": ""}')


def read(name, data, **options):
  """(the documents, what was said)."""
  said, opened = [], lambda: io.BytesIO(data)
  return list(sources.of(name, opened, **options)(name, opened, said.append)), said


def table(**columns):
  buffer = io.BytesIO()
  parquet.write_table(pyarrow.table(columns), buffer, row_group_size=2)
  return buffer.getvalue()


def dump(*pages, version="0.11", end="</mediawiki>\n"):
  return (f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" xml:lang="en">\n<siteinfo><dbname>x'
          f"</dbname></siteinfo>\n{''.join(pages)}{end}").encode()


def page(number, text, ns=0, extra="", revision=""):
  return (f"<page><title>T{number}</title><ns>{ns}</ns><id>{number}</id>{extra}<revision><id>9</id><timestamp>2024-01-0"
          f"{number}T00:00:00Z</timestamp>{revision}<text>{text}</text></revision></page>\n")


@pytest.mark.parametrize("suffix", PACKERS)
def test_the_name_tells_the_format(suffix):
  pack = PACKERS[suffix]
  assert read(f"a/b.txt{suffix}", pack("für\r\ndich\r".encode()))[0][0].text == "für\ndich\n"
  html, = read(f"a.HTML{suffix}", pack(b"<p>a"))[0]
  assert (html.name, html.content, html.fields) == (f"a.HTML{suffix}:1", b"<p>a", {"content_type": "text/html"})
  lines, said = read(f"a.jsonl{suffix}", pack(LINES))
  assert [(one.name, one.text) for one in lines] == [
      (f"a.jsonl{suffix}:{line}", text) for line, text in ((1, "one\ntwo"), (3, "tüw\n"), (4, ""))]
  assert lines[0].fields == {"url": "http://a/", "n": [1, {"x": None}]} and not said
  assert read(f"a.xml{suffix}", pack(dump(page(1, "x"))))[0][0].content == b"x"


@pytest.mark.parametrize("content, fields", [
    (b"WARC/1.0\r\n", []), (table(text=["x"]), []), (dump(page(1, "x")), ["title"]),
    (b'<?xml version="1.0"?>\n<!-- c --><!DOCTYPE html>\n<p>', ["content_type"]),
    (b'{"text": "x", "url": "y"}', ["url"])])
def test_the_content_tells_the_format_where_the_name_does_not(content, fields):
  for suffix, pack in PACKERS.items() if fields else [("", bytes)]:
    documents, said = read("part-00001" + suffix, pack(content))
    assert (documents or content.startswith(b"WARC")) and all(field in documents[0].fields for field in fields)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<rss><item/></rss>", b"\x1f\x8b\x08broken", b"plain words"])
def test_an_unknown_format_is_refused_by_name(content):
  with pytest.raises(UserError, match="feed.rss is in no format"):
    sources.of("feed.rss", lambda: io.BytesIO(content))


# JSON.


def test_damaged_lines_are_said_and_the_others_read():
  lines = [b'{"text": "a"}', b"{broken", b'{"text": 5}', b'{"title": "no text"}', b'["text"]', b'{"text": "\\ud800"}',
           b'{"text": "\xff"}', b"[" * 100_000, b'{"text": "a\xe2\x80\xa8b"}']
  documents, said = read("a.jsonl", b"\n".join(lines))
  assert [(one.name, one.text) for one in documents] == [("a.jsonl:1", "a"), ("a.jsonl:9", "a\u2028b")]
  assert [one.split(": ")[0] for one in said] == [f"a.jsonl:{line}" for line in range(2, 9)]


def test_another_field_has_the_text():
  documents, said = read("a.jsonl", b'{"text": 1, "raw": "x"}', text_field="raw")
  assert documents[0].text == "x" and documents[0].fields == {"text": 1} and not said
  assert "name the field" in read("a.jsonl", b'{"text": "x"}', text_field="raw")[1][0]


def test_a_list_is_a_file_of_objects():
  documents, said = read("a.json", json.dumps([{"text": "a", "k": 1}, 5, {"text": "b"}], indent=1).encode())
  assert [(one.name, one.text, one.fields) for one in documents] == [("a.json:1", "a", {"k": 1}), ("a.json:3", "b", {})]
  assert [one.split(": ")[0] for one in said] == ["a.json:2"]
  assert len(read("a.json", b'[{"text": "a"}, ')[1]) == 1
  assert len(read("a.json", b"[" * 100_000)[1]) == 1


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_file_cut_off_gives_its_whole_lines_and_says_that_it_ends(suffix):
  lines = [json.dumps({"text": str(number) * 9}).encode() for number in range(15_000)]
  packed = PACKERS[suffix](b"\n".join(lines))
  documents, said = read("a.jsonl" + suffix, packed[:len(packed) * 3 // 4])
  assert len(documents) > 3000
  assert [one.text for one in documents] == [str(number) * 9 for number in range(len(documents))]
  assert sum("behind line" in one for one in said) == 1, said
  texts, said = read("a.txt" + suffix, packed[:len(packed) * 3 // 4])
  assert not texts and len(said) == 1  # Half a text is none.


def test_members_of_gzip_are_one_file():
  assert len(read("a.jsonl.gz", gzip.compress(LINES + b"\n") + gzip.compress(LINES))[0]) == 6


# Parquet.


def test_rows_have_a_text_and_fields():
  day = datetime.datetime(2024, 1, 2)
  data = table(text=["a\r\nb", None, "c"], url=["u", "v", None], day=[day] * 3, raw=[b"x"] * 3, tags=[["p"], [], None])
  documents, said = read("a.parquet", data)
  assert [(one.name, one.text) for one in documents] == [("a.parquet:1", "a\nb"), ("a.parquet:3", "c")]
  assert documents[0].fields == {"url": "u", "day": "2024-01-02T00:00:00", "tags": ["p"]}
  json.dumps(documents[0].fields)
  assert len(said) == 1 and said[0].startswith("a.parquet:2: ")


def test_another_column_has_the_text():
  data = table(text=[1], body=["x"])
  assert read("a.parquet", data, text_field="body")[0][0].fields == {"text": 1}
  assert "text, body" in read("a.parquet", data, text_field="bodies")[1][0]
  assert len(read("a.parquet", data)[1]) == 1  # A number is no text.


def test_a_damaged_row_group_costs_itself_alone():
  data = bytearray(table(text=["a", "b", "c", "d", "e", "f"]))
  column = parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0)
  data[column.dictionary_page_offset:column.data_page_offset] = bytes(column.data_page_offset -
                                                                      column.dictionary_page_offset)
  documents, said = read("a.parquet", bytes(data))
  assert [one.text[0] for one in documents] == ["a", "b", "e", "f"] and documents[-1].name == "a.parquet:6"
  assert len(said) == 1 and "rows 3 to 4" in said[0]


def test_a_file_that_is_no_parquet_is_said():
  for data in (b"", b"PAR1", table(text=["x"])[:-5]):
    assert read("a.parquet", data)[0] == [] and len(read("a.parquet", data)[1]) == 1


# Dumps of wikis.


@pytest.mark.parametrize("version", ["0.10", "0.11"])
def test_articles_are_read(version):
  data = dump(page(1, "'''A''' &amp; [[b]]\n"), page(2, "x", ns=1), page(3, "x", extra='<redirect title="T1" />'),
              page(4, "x", revision="<model>json</model>"), page(5, "", revision="<model>wikitext</model>"),
              "<page><title>none</title><ns>0</ns><id>6</id></page>",
              page(7, "new").replace("<revision>", "<revision><text>old</text></revision><revision>", 1),
              version=version)
  documents, said = read("d.xml", data)
  assert [(one.name, one.content) for one in documents] == [
      ("d.xml:1", b"'''A''' & [[b]]\n"), ("d.xml:5", b""), ("d.xml:7", b"new")]
  assert documents[0].fields == {"content_type": "text/x-wiki", "title": "T1", "id": "1",
                                 "date": "2024-01-01T00:00:00Z"}
  assert not said


def test_streams_of_a_dump_are_one_dump():
  whole = dump(page(1, "a"), page(2, "b"))
  middle = whole.index(b"<page>", whole.index(b"<page>") + 1)
  data = bz2.compress(whole[:middle]) + bz2.compress(whole[middle:])
  assert [one.content for one in read("d.xml.bz2", data)[0]] == [b"a", b"b"]
  assert len(read("d.xml.bz2", data[:20])[1]) == 1
  documents, said = read("d.xml.bz2", data[:-20])
  assert [one.content for one in documents] == [b"a"] and len(said) == 1 and "behind page 1" in said[0]


def test_a_dump_that_ends_or_is_damaged_is_said():
  whole = page(1, "a"), page(2, "b")
  for data in (dump(*whole, end=""), dump(*whole, "<page></pag>", page(3, "c"))):
    documents, said = read("d.xml", data)
    assert [one.content for one in documents] == [b"a", b"b"] and len(said) == 1 and "behind page 2" in said[0]


def test_pages_do_not_pile_up_in_memory():
  import tracemalloc
  data = dump(*(page(1, "word " * 2000) for _ in range(300)))
  tracemalloc.start()
  try:
    said: list[str] = []
    assert sum(1 for _ in sources.of("d.xml", lambda: io.BytesIO(data))("d.xml", lambda: io.BytesIO(data), said.append)
               ) == 300
    assert tracemalloc.get_traced_memory()[1] < 1_500_000
  finally:
    tracemalloc.stop()
