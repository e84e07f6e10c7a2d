"""Words of every script: Python's `\\w` knows neither those without blanks between them, nor the marks of letters.

UNSPACED and MARKS are the inside of a regular expression's brackets, WORD is one.
"""

import unicodedata

# Thai, Lao; Tibetan; Burmese; Khmer; marks of repetition, kana; Han; narrow kana; rare Han.
UNSPACED = (r"\u0e00-\u0eff\u0f00\u0f3e-\u0fbc\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
            r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff")
# Accents, points of Hebrew and Arabic, vowels of India and of Southeast Asia, voicing of kana.
MARKS = "".join(one for one in map(chr, range(0x300, 0x3100)) if unicodedata.category(one).startswith("M"))
# A character of a script without blanks, or what lies between other signs and blanks.
WORD = rf"[{UNSPACED}][{MARKS}]*|(?:(?![{UNSPACED}])[\w{MARKS}])+"
