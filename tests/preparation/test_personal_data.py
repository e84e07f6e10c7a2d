"""What is found of persons and secrets, what is not, and the tags that take its place."""

import pickle
import random
import re
import sys
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

pytest.importorskip("re2")
pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.personal_data import (
  cards,
  emails,
  ibans,
  ip_addresses,
  PersonalData,
  phones,
  secret_keys,
  social_security,
  Span,
  spans,
)

FINDERS = {"email": emails, "phone": phones, "card": cards, "iban": ibans, "ssn": social_security, "ip": ip_addresses,
           "secret": secret_keys}
# In parts, so that no scanner takes these lines for leaks.
AWS, GITHUB = "AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9
SLACK, GOOGLE = "xoxb-" + "123456-abcdef", "AIza" + "x" * 35
JWT = ".".join(("eyJ" + "hbGciOiJI", "eyJ" + "zdWIiOiIx", "c2lnbmF0dXJl"))
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\n" + ("QUJD" * 16 + "\n") * 3 + "QQ==\n-----END RSA " + "PRIVATE KEY-----"


def found(kind, text):
  """The values of a kind that stand in a text."""
  places = list(FINDERS[kind].find(text))
  assert all(span.kind == kind for span in places)
  return [text[span.start:span.end] for span in places]


def replaced(text, **parameters):
  return PersonalData(**parameters)(Document("a:1", text)).text


@pytest.mark.parametrize("kind, value", [
    ("email", "joe@example.org"), ("email", "a.b+c_d%e-f@sub.ex-ample.co.uk"), ("email", "O'Brien@x.ie"),
    ("email", "jürgen@münchen.de"), ("email", unicodedata.normalize("NFD", "jürgen@münchen.de")),
    ("email", "почта@пример.рф"), ("email", "x@xn--fo-fka.com"), ("email", "4155552671@x.org"),
    ("phone", "+1 415-555-2671"), ("phone", "(415) 555-2671"), ("phone", "415-555-2671"), ("phone", "415.555.2671"),
    ("phone", "+44 20 7946 0958"), ("phone", "020 7946 0958"), ("phone", "+4930123456"), ("phone", "01 84 17 61 18"),
    ("phone", "+46 (0)8 928 571 38"), ("phone", "415-555-2671 ext. 89"), ("phone", "+1\u2011415\u2011555\u20112671"),
    ("card", "4111111111111111"), ("card", "4111 1111 1111 1111"), ("card", "5500-0000-0000-0004"),
    ("card", "340000000000009"), ("card", "3400 000000 00009"), ("card", "30000000000004"),
    ("card", "6011000000000004"), ("card", "4222222222222"), ("card", "501864667909"),
    ("card", "4131034282458809939"), ("card", "2720992593319364"),
    ("iban", "GB82WEST12345698765432"), ("iban", "GB82 WEST 1234 5698 7654 32"), ("iban", "gb82west12345698765432"),
    ("iban", "DE89-3704-0044-0532-0130-00"), ("iban", "NO9386011117947"), ("iban", "BE71 0961 2345 6769"),
    ("ssn", "460-89-9847"),
    ("ip", "93.184.216.34"), ("ip", "2606:4700:4700::1111"), ("ip", "6e40:4041:c617:e898:c11:40d2:c669:2eb4"),
    ("secret", AWS), ("secret", GITHUB), ("secret", SLACK), ("secret", GOOGLE), ("secret", JWT), ("secret", KEY),
    ("secret", "https://hooks.slack.com/services/" + "T00000000/B00000000/abcDEF123")])
@pytest.mark.parametrize("before, behind", [
    ("", ""), ("Here: ", " is it"), ("(", ")"), ('"', '",'), ("<", ">"), ("\n", "\n"), ("\r\n", "\r\n"),
    ("\u2028", "."), ("😀", "😀"), ("İ ", "; "), ("号", "号")])
def test_values_are_found_at_their_places(kind, value, before, behind):
  assert found(kind, before + value + behind) == [value]


@pytest.mark.parametrize("kind, text", [
    ("email", "joe@localhost @joe x@ @x.org a@b@c.org logo@2x.png react@16.8.0 ...@x.org a@b.c joe@x.org1"),
    ("email", "https://joe:secret@example.org/ ssh://git@example.org/x git@github.com:someone/x.git joe:pass@x.org:80"),
    ("email", "a" * 65 + "@x.org"),
    ("phone", "2024-01-31 12:30:45 31.12.2024 12/31/2024 1700000000 1700000000.123456 20240131123045"),
    ("phone", "ISBN 978-3-16-148410-0, 0-306-40615-2 and 0306406152"),
    ("phone", "0.5772156649 -122.085589 1,234,567.89"),
    ("phone", "x4155552671 415-555-2671a 12415-555-2671-99 $415-555-2671x"), ("phone", "10.0.0.255 192.168.100.200"),
    ("phone", "d41d8cd98f00b204e9800998ecf8427e 550e8400-e29b-41d4-a716-446655440000"),
    ("phone", "doi 10.1016/j.cell.2017.10.049 [87229/87229] phonebook 1234567 tel1234567"),
    ("phone", "320  348  376\n01  012  0123\n 1 2 3 4 5 6 7 8 9 10 11 12"), ("phone", "4155552671"),
    ("card", "4111111111111112 1111111111111111 0000000000000000 41111111111111111"),
    ("card", "0.4111111111111111 4111111111111111.5 a4111111111111111 4111111111111111b 4111_1111_1111_1111"),
    ("card", "https://x.org/status/4111111111111111"), ("card", "4111 1111-1111 1111 41 11 11 11 11 11 11 11"),
    ("card", "9783161484100 ISBN 978-3-16-148410-0 1700000000000 20240131123045"),
    ("card", "1234 4111 1111 1111 1111 1234\n1000 4111 1111 1111 1111"),  # A table.
    ("card", "550e8400-4111-1111-1111-111111111111 4111111111111111deadbeef"),
    ("iban", "GB82WEST12345698765433 XGB82WEST12345698765432 GB82WEST123456987654321 XX82WEST12345698765432"),
    ("iban", "is12 that good or bad, ab12 gb82 west 1234 5698 7654 32"),
    ("ssn", "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000 1460-89-9847 460-89-98470 460-89-9847-1"),
    ("ssn", "2024-01-3100 x460-89-9847 1.460-89-9847 460899847"),
    ("ip", "127.0.0.1 10.1.2.30 192.168.1.1 172.16.0.10 169.254.10.10 0.0.0.0 255.255.255.255 224.0.0.251 192.0.2.10"),
    ("ip", "256.1.1.10 1.2.3.4.50 01.20.30.40 version 10.20.30.40, v10.20.30.40 Chrome/91.0.44.124 x==10.20.30.40"),
    ("ip", '"version": "10.20.30.40" foo-10.20.30.40.tar.gz section 8.20.4.44 1.2.3.4 100.20.30'),
    ("ip", "12:34:56 x[1::2] y[::2] std::cafe Bad::Face fe80::1 ::1 2001:db8::1 ff02::fb fc00::1 12:34:56:78:9a:bc"),
    ("ip", "50:06:0e:80:12:34:56:78 1:2:3:4:5:6:7:8:9"),
    ("secret", "x" + AWS + " " + AWS + "X " + GITHUB[:20] + " AKIA-IOSFODNN7EXAMPLE"),
    ("secret", "-----BEGIN " + "PRIVATE KEY----- is how a key begins; -----BEGIN CERTIFICATE-----\n" + "QUJD" * 16),
    ("secret", "password = 'correct_horse_battery_staple' api_key = os.environ['API_KEY'] token: '" + "a1" * 16 + "'")])
def test_what_only_looks_like_a_value_is_left(kind, text):
  assert not found(kind, text)


@pytest.mark.parametrize("text, value", [
    ("Tel.: 9498777106.", "9498777106"), ("phone: 467 3395", "467 3395"), ("Mobile number 9472 7916", "9472 7916"),
    ("Téléphone\n60-56-85-91", "60-56-85-91"), ("Fax 5403926876", "5403926876")])
def test_behind_a_word_for_telephones_any_number_of_their_length_is_one(text, value):
  assert found("phone", text) == [value]
  assert not found("phone", value)


@pytest.mark.parametrize("text", [
    "api_key = '{}'", 'API-KEY: "{}"', "'secret' => '{}'", "password='{}'", 'export AWS_SECRET_ACCESS_KEY="{}"'])
def test_random_values_are_secret_where_they_are_assigned_to_a_key(text):
  value = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "9a1b2c3d4e"
  assert set(found("secret", text.format(value))) == {value}
  assert not found("secret", value)


def test_key_blocks_in_strings_of_programs_and_cut_ones_are_secret():
  for text in (KEY.replace("\n", "\\n"), KEY[:100], KEY.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1)):
    assert found("secret", f"key = '{text}'") == [text]


def luhn(digits):
  """Luhn's sum by its definition: from the right, every other digit doubled, and the digits of the products added."""
  return sum(int(one) if place % 2 == 0 else sum(map(int, str(2 * int(one))))
             for place, one in enumerate(reversed(digits)))


def test_of_numbers_that_differ_in_a_digit_one_in_ten_is_a_card():
  rng = random.Random(0)
  for _ in range(200):
    number = "4" + "".join(rng.choices("0123456789", k=14))
    assert [last for last in "0123456789" if found("card", number + last)] == [
        last for last in "0123456789" if luhn(number + last) % 10 == 0]


def test_a_changed_digit_is_no_iban():
  iban = "GB82WEST12345698765432"
  for place in range(8, len(iban)):
    for digit in set("0123456789") - {iban[place]}:
      assert not found("iban", iban[:place] + digit + iban[place + 1:])


def test_lists_of_cards_and_what_stands_beside_them():
  assert found("card", "4111111111111111 5500000000000004\n2020 4111111111111111,340000000000009") == [
      "4111111111111111", "5500000000000004", "4111111111111111", "340000000000009"]
  assert found("card", "4111 1111 1111 1111 12/25 123") == ["4111 1111 1111 1111"]


def test_regions_say_whose_numbers_are_known_without_a_country():
  text = "0171 234567 or 415-555-2671 or +49 171 2345678"
  assert [text[span.start:span.end] for span in phones.find(text, ("US",))] == ["415-555-2671", "+49 171 2345678"]
  with pytest.raises(UserError, match="'XX', which is no region"):
    list(phones.find(text, ("XX",)))


def test_of_values_that_overlap_the_first_kind_is_kept_then_the_longest():
  order = {"a": 0, "b": 1}
  assert spans.without_overlaps([Span(0, 9, "b"), Span(3, 5, "a"), Span(10, 12, "b"), Span(9, 12, "b")], order) == [
      Span(3, 5, "a"), Span(9, 12, "b")]
  assert spans.without_overlaps([Span(5, 9, "b"), Span(0, 5, "b")], order) == [Span(0, 5, "b"), Span(5, 9, "b")]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from("ab"))))
def test_no_two_spans_that_are_kept_overlap_and_none_could_be_added(given_spans):
  all_spans = [Span(start, start + length, kind) for start, length, kind in given_spans]
  kept = spans.without_overlaps(all_spans, {"a": 0, "b": 1})
  assert kept == sorted(kept)
  for one, other in zip(kept, kept[1:]):
    assert one.end <= other.start
  for span in all_spans:
    assert any(span.start < one.end and one.start < span.end for one in kept)


def test_tags_number_the_values_of_a_kind():
  text = ("😀 joe@x.org, ann@x.org and JOE@x.org; 4111 1111 1111 1111 is 4111111111111111.\r\n"
          "GB82 WEST 1234 5698 7654 32\u2028+1 415-555-2671")
  document = PersonalData()(Document("a:1", text, fields={"url": "u"}))
  assert document.text == ("😀 <EMAIL_1>, <EMAIL_2> and <EMAIL_1>; <CARD_1> is <CARD_1>.\r\n<IBAN_1>\u2028<PHONE_1>")
  assert document.fields == {"url": "u", "personal_data": {"card": 2, "email": 3, "iban": 1, "phone": 1}}
  assert document.name == "a:1"


def test_a_value_is_replaced_where_it_stands_alone():
  assert replaced("a@b.org xa@b.org a@b.orgx") == "<EMAIL_1> <EMAIL_2> <EMAIL_3>"
  assert replaced("93.184.216.34 193.184.216.345") == "<IP_1> 193.184.216.345"


def test_tags_of_the_text_keep_their_numbers():
  assert replaced("<EMAIL_7> <CARD_9> a@b.org") == "<EMAIL_7> <CARD_9> <EMAIL_8>"


def test_kinds_and_tags_are_parameters():
  text = "a@b.org 460-89-9847"
  assert replaced(text, kinds=("ssn",)) == "a@b.org <SSN_1>"
  assert replaced(text, tag="[{kind}]") == "[EMAIL] [SSN]"
  tag = "{kind}{number}@x.org"  # Looks like an address itself.
  assert replaced(text, tag=tag) == "EMAIL1@x.org SSN1@x.org" == replaced(replaced(text, tag=tag), tag=tag)


def test_most_drops_lists():
  rule = PersonalData(most=2)
  assert rule(Document("a:1", "a@b.org c@d.org e@f.org")) == Dropped("personal_data", 3)
  once = rule(Document("a:1", "a@b.org c@d.org"))
  assert once.text == "<EMAIL_1> <EMAIL_2>"
  assert rule(once) is once


@pytest.mark.parametrize("text", ["", " ", "\n", "word", "\ud800 😀\udfff", "\0"])
def test_documents_with_nothing_to_find_are_the_same(text):
  document = Document("a:1", text)
  assert PersonalData()(document) is document


def test_half_surrogate_pairs_move_nothing():
  assert replaced("\ud83d é a@b.org \udc00") == "\ud83d é <EMAIL_1> \udc00"


PIECES = st.lists(st.sampled_from([
    "joe@x.org", "+1 415-555-2671", "(415) 555-2671", "4111 1111 1111 1111", "4111111111111111", "460-89-9847",
    "GB82WEST12345698765432", "93.184.216.34", "2606:4700:4700::1111", AWS, JWT, "<EMAIL_1>", "<CARD_3>", "EMAIL_1",
    "tel: ", "version ", "api_key='", "://", "'", '"', " ", "-", ".", ",", ":", "/", "@", "+", "(", ")", "\n", "1", "a",
    "😀", "é", "e\u0301", "İ", "号", "_", "<", ">"]), max_size=12).map("".join)


@settings(deadline=None, max_examples=400)
@given(st.one_of(PIECES, st.text(alphabet="0123456789+-.:@/() aeF<>_xé", max_size=60)))
def test_running_twice_changes_nothing_and_what_is_no_value_stays(text):
  rule = PersonalData()
  once = rule(Document("a:1", text))
  assert rule(once) is once
  # The text between tags is the text that was there, in order.
  between = map(re.escape, re.split(r"<[A-Z]+_\d+>", once.text))
  assert re.fullmatch(".*".join(between), text, re.DOTALL)


def calls(text):
  """How many functions the rule calls for a text."""
  count = 0

  def counted(frame, event, argument):
    nonlocal count
    count += event in ("call", "c_call")

  rule = PersonalData()
  rule(Document("a:1", "a@b.org +1 415-555-2671"))  # What is compiled and loaded once.
  sys.setprofile(counted)
  try:
    rule(Document("a:1", text))
  finally:
    sys.setprofile(None)
  return count


@pytest.mark.parametrize("piece", [
    "a@a", "a@", "1", "1 ", "1-", "1.", "?", ":", "a:", "ab12", "GB82 ", "://", "x@b.aa.1", "+1", "(", "tel:", "eyJ",
    "é", "4111111111111111/", "4111111111111111 ", "2001:db8::1 ", "93.184.216.34",
    "-----BEGIN " + "PRIVATE KEY-----\n", "api_key='", "<EMAIL_", "joe@x.org-", "0.1", "460-89-9847-"])
def test_work_is_linear_in_the_length_of_a_text(piece):
  """The calls of Python; below them is RE2, which is linear, and what is checked of each candidate is short."""
  short = piece * (2_000 // len(piece))
  assert calls(16 * short) <= 17 * calls(short) + 1_000


@pytest.mark.parametrize("piece", ["a@a", "1", "?", "1 ", "1-", "(1)", "+1 "])
def test_a_megabyte_of_one_thing_is_no_value_and_few_calls(piece):
  text = piece * (1_000_000 // len(piece))
  assert calls(text) < 100_000
  assert replaced(text) == text


def test_libraries_with_backtracking_see_short_candidates_only(monkeypatch):
  import phonenumbers
  seen, matcher = [], phonenumbers.PhoneNumberMatcher
  monkeypatch.setattr(phonenumbers, "PhoneNumberMatcher", lambda text, *rest: seen.append(text) or matcher(text, *rest))
  for piece in ("1", "1 ", "1-", "415-555-2671 ", "415-555-2671\n", "(1)", "+1", "+1 415 555 2671 x"):
    list(phones.find(piece * 100))
  assert seen and max(map(len, seen)) <= 40


@pytest.mark.parametrize("parameters, message", [
    ({"kinds": ("mail",)}, r"PersonalData.kinds = \('mail',\) must be some of secret, email"),
    ({"kinds": ()}, "kinds"), ({"kinds": "email"}, "kinds"), ({"kinds": ("ip", "ip")}, "names a kind twice"),
    ({"tag": "X"}, "tag = 'X' must be a text with {kind}"), ({"tag": "{kind}{name}"}, "tag"), ({"tag": "{kind"}, "tag"),
    ({"tag": "{kind:>9}"}, "tag"), ({"tag": "{}"}, "tag"),
    ({"regions": "US"}, "regions"), ({"regions": ("us",)}, "regions"), ({"most": -1}, "most"), ({"most": "1"}, "most")])
def test_mistakes_are_named(parameters, message):
  with pytest.raises(UserError, match=message):
    PersonalData(**parameters)


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "re2", None)
  spans.library.cache_clear()
  spans._compiled.cache_clear()
  with pytest.raises(UserError, match=r"needs google-re2, which is not installed: pip install 'gpt4x\[prepare\]'"):
    replaced("a@b.org")
  monkeypatch.undo()
  spans.library.cache_clear()


def test_a_rule_can_be_pickled():
  rule = pickle.loads(pickle.dumps(PersonalData(most=3)))
  assert rule == PersonalData(most=3)
  assert rule(Document("a:1", "a@b.org")).text == "<EMAIL_1>"
