"""What the API server accepts as a name, a label or a port name, and in which words it refuses one.

Each function returns the complaints about a text, none when it is fine. Source: k8s.io/apimachinery/pkg/util/validation.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = _LABEL + r"(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE: Final = f"({_QUALIFIED})?"

_IS_LABEL: Final = re.compile(_LABEL)
_IS_LABEL_1035: Final = re.compile(_LABEL_1035)
_IS_SUBDOMAIN: Final = re.compile(_SUBDOMAIN)
_IS_QUALIFIED: Final = re.compile(_QUALIFIED)
_IS_LABEL_VALUE: Final = re.compile(_LABEL_VALUE)
_PORT_NAME_LETTERS: Final = re.compile("[-a-z0-9]+")
_A_LETTER: Final = re.compile("[a-z]")

_LABEL_TEXT: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    f"alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_LABEL_1035_TEXT: Final = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
    f"with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{_LABEL_1035}')"
)
_SUBDOMAIN_TEXT: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end "
    f"with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_QUALIFIED_TEXT: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_QUALIFIED_NAME_TEXT: Final = (
    "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{_QUALIFIED}') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
)
_LABEL_VALUE_TEXT: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
    f"an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_LABEL_VALUE}')"
)
PORT_NUMBER_TEXT: Final = "must be between 1 and 65535, inclusive"

Complaints = tuple[str, ...]


def _too_long(text: str, most: int) -> Complaints:
    fits = len(text) <= most and (text.isascii() or len(text.encode("utf-8", "replace")) <= most)
    return () if fits else (f"must be no more than {most} characters",)


@lru_cache(maxsize=8192)
def label(text: str) -> Complaints:
    """An RFC 1123 label: namespaces, port names and, since 1.36, Services."""
    return _too_long(text, 63) + (() if _IS_LABEL.fullmatch(text) else (_LABEL_TEXT,))


def label_1035(text: str) -> Complaints:
    """An RFC 1035 label: Services before 1.36."""
    return _too_long(text, 63) + (() if _IS_LABEL_1035.fullmatch(text) else (_LABEL_1035_TEXT,))


@lru_cache(maxsize=8192)
def subdomain(text: str) -> Complaints:
    """An RFC 1123 subdomain: the names of most objects."""
    return _too_long(text, 253) + (() if _IS_SUBDOMAIN.fullmatch(text) else (_SUBDOMAIN_TEXT,))


@lru_cache(maxsize=8192)
def qualified_name(text: str) -> Complaints:
    """A key of a label or an annotation: a name with an optional DNS subdomain and a slash before it."""
    parts = text.split("/")
    if len(parts) > 2:
        return (_QUALIFIED_NAME_TEXT,)
    complaints: Complaints = ()
    if len(parts) == 2:
        prefix = parts[0]
        wrong = subdomain(prefix) if prefix else ("must be non-empty",)
        complaints = tuple(f"prefix part {complaint}" for complaint in wrong)
    name = parts[-1]
    if not name:
        complaints += ("name part must be non-empty",)
    complaints += tuple(f"name part {complaint}" for complaint in _too_long(name, 63))
    return complaints if _IS_QUALIFIED.fullmatch(name) else (*complaints, f"name part {_QUALIFIED_TEXT}")


@lru_cache(maxsize=8192)
def label_value(text: str) -> Complaints:
    """The value of a label."""
    return _too_long(text, 63) + (() if _IS_LABEL_VALUE.fullmatch(text) else (_LABEL_VALUE_TEXT,))


def port_name(text: str) -> Complaints:
    """A port name as IANA has it (RFC 6335), which is what a named targetPort is."""
    complaints = list(_too_long(text, 15))
    if not _PORT_NAME_LETTERS.fullmatch(text):
        complaints.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not _A_LETTER.search(text):
        complaints.append("must contain at least one letter (a-z)")
    if "--" in text:
        complaints.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        complaints.append("must not begin or end with a hyphen")
    return tuple(complaints)


def port_number(number: int) -> Complaints:
    """A port that something can listen on."""
    return () if 1 <= number <= 65535 else (PORT_NUMBER_TEXT,)
