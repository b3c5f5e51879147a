"""``ipvsadm -S -n`` and ``-L -n``: identity with the real command, what restore makes of its input, bad input, arbitrary input."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.inet import SCTP, TCP, UDP, mask_of
from dataplane.rules.ipvs import IPVS, SCHEDULERS, Forwarding, RealServer, SchedulerFlags, Timeouts, Tunnel, VirtualServer
from dataplane.text.ipvsadm import in_printed_order, parse_save, print_save
from tests.text.referee import sample
from tests.uml import in_uml

#: Made by the real ipvsadm 1.31 on kernel 6.1, over the table BASE: "LINE => what the table has more | - and less".
CASES = sample("ipvsadm-cases.txt").splitlines()
BASE = """\
-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:80 -r 10.2.0.1:80 -m -w 3
-A -t 10.0.0.2:0 -s rr -p 60
-A -t [fd00::1]:80 -s rr
-A -f 1 -s rr
-A -f 1 -6 -s rr
"""
SET = "--set 900 120 300\n"


def difference(printed: str) -> str:
    """A table in the form of CASES. Without what the command does not print: thresholds, the third flag of sh and mh."""
    lines = re.sub(r" -[xy] \d+|(?<=-port),flag-3|flag-3(?=\n)(?<=[sm]h -b flag-3)", "", printed).splitlines()
    base = BASE.splitlines()
    more, less = [line for line in lines if line not in base], [f"- {line}" for line in base if line not in lines]
    return " | ".join([*more, *less]) or "SAME"


def answers() -> list[str]:
    """What the real command makes of the cases, in their order."""
    lines = [case.rpartition(" => ")[0] for case in CASES]
    script = """
while IFS= read -r line; do
  { echo -C; cat base; printf '%s\\n' "$line"; } > /run/in
  : > /run/error
  ipvsadm -R < /run/in > /run/error 2>&1 || echo FAILED > /run/error
  if [ -s /run/error ]; then echo REFUSED; else ipvsadm -Sn; case $line in *set*) ipvsadm -L --timeout;; esac; fi
  echo ==
done < lines
"""
    said = in_uml(script, "ipvsadm", files={"base": SET + BASE, "lines": "".join(f"{line}\n" for line in lines)})
    found = [re.sub(r"Timeout .*: (.*)", r"--set \1", one).removeprefix("\n") for one in said.split("==\n")[:-1]]
    return [one.strip() if one == "REFUSED\n" else difference(one.replace(SET, "")) for one in found]


def outcome_of(line: str) -> str:
    try:
        return difference(print_save(parse_save(f"{SET}{BASE}{line}\n")))
    except ParseError:
        return "REFUSED"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rpartition(" => ")[0])
def test_restore_is_carried_out_as_the_command_and_the_kernel_do(case: str) -> None:
    line, _, outcome = case.rpartition(" => ")
    assert outcome_of(line) == outcome
