"""``sysctl -a`` lines: read and printed. What the parameters mean and their defaults are in rules/sysctls.

Names are kept as ``sysctl -a`` prints them: dots between the parts, and a slash for a dot inside an interface's name
(net.ipv4.conf.eth0/100.rp_filter). The other way round (net/ipv4/conf/eth0.100/rp_filter) is read too, and so are files in the
format of sysctl.conf. Source: procps-ng 4.0 as observed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dataplane.rules.sysctls import DEFAULTS
from dataplane.text.problems import Problems

_SWAP: Final = str.maketrans("./", "/.")
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_NAME: Final = re.compile(r"[^\s=./]+(?:[./][^\s=./]+)*")
#: What the command says of parameters that it could not read, where its error output was saved too.
_COMPLAINTS: Final = ("sysctl: ", "error: ")


def parse_sysctls(text: str, *, file: str | None = None) -> Mapping[str, str]:
    """Values by name, in the order of the text. ParseError.

    Of a name that comes twice the last value counts; outside of net, where values of several lines exist, which the command
    prints as one line each, they are joined again.
    """
    problems = Problems(file)
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare or bare[0] in "#;" or bare.startswith(_COMPLAINTS):
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals or not _NAME.fullmatch(name):
            problems.add(f"expected NAME = VALUE, got {bare[:80]!r}", line=number, source=line)
            continue
        name = canonical_name(name)
        value = value.rstrip("\r").removeprefix(" ")
        wrong = _wrong_value(name, value)
        if wrong is not None:
            problems.add(wrong, line=number, column=len(line) - len(value) + 1, source=line, subject=name)
        values[name] = value if name not in values or name.startswith("net.") else f"{values[name]}\n{value}"
    problems.raise_if_any()
    return MappingProxyType(values)


def print_sysctls(values: Mapping[str, str]) -> str:
    """The values as ``sysctl -a`` prints them, in the order of the mapping."""
    return "".join(f"{name} = {line}\n" for name, value in values.items() for line in value.split("\n"))


def canonical_name(name: str) -> str:
    """A name in the spelling with dots: where a slash comes first, slashes and dots change places."""
    slash, dot = name.find("/"), name.find(".")
    return name.translate(_SWAP) if slash >= 0 and (dot < 0 or slash < dot) else name


def _wrong_value(name: str, value: str) -> str | None:
    """What is wrong with the value of a parameter that is known here, None where nothing is."""
    parts = name.split(".", 4)
    if len(parts) == 5 and parts[2] == "conf":
        name = f"{'.'.join(parts[:3])}.default.{parts[4]}"
    default = DEFAULTS.get(name)
    if default is not None and _NUMBER.fullmatch(default) and not _NUMBER.fullmatch(value.strip()):
        return f"expected a number, got {value!r}"
    return None
