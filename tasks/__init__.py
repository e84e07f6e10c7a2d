"""The shipped seqio tasks; importing this package registers them."""

from tasks import local_text, python_stdlib
