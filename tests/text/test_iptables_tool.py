"""Rules of one line each, read and printed by ours and by the real tool: the same text, or refused by both."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from dataplane.text.iptables_rule import RuleError, print_rule, read_rule, split
from tests.text.referee import in_netns, sample

NAMES: Final = {
    4: {"@SET": "ips", "@VADDR": "10.0.0.1", "@GW": "10.0.0.1", "@OWNIP": "10.0.0.1", "@FULL": "255.255.255.255"},
    6: {"@SET": "ips6", "@VADDR": "2001:db8::1", "@GW": "2001:db8::1", "@OWNIP": "2001:db8::1", "@FULL": ":".join(["ffff"] * 8)},
}
SETUP: Final = """
ipset create ips hash:ip,port,ip
ipset create ips6 hash:ip,port,ip family inet6
nfacct add acct
"""

#: Where ours and the tool may differ, and why. Each has to, for at least one rule.
DIFFERENT: Final = {
    r"-m (udplite|l2tp|foo)\b": "an extension that this iptables does not have is kept as it was written",
    r"-m (ipvs)\b|-j (LED|ULOG)\b": "this kernel does not have it, so the tool cannot print it",
    r"-m rateest\b": "the kernel wants an estimator that is running",
    r"-j (CONNSECMARK --save$|SECMARK --selctx)": "the kernel wants SELinux",
    r"-j CT --(helper foo|timeout pol)": "the kernel wants a helper or a policy that is loaded",
    r"--match-set NOSET": "which sets there are is not known to one line",
    r"-m cgroup --path": "the kernel wants a group that there is",
    r"1/day( --hashlimit-name i|$)": "the kernel's own arithmetic overflows, by its HZ",
    r"-j (TRACE|SET --map-set \S+ src --map-mark)$": "which table a target is for is not known to one line",
    r"-j SNPT --src-pfx 2001:db8::(5/64|/65)": "the kernel wants two prefixes that fit each other",
    r"--gid-owner daemon": "names of users and groups are another machine's: they are refused, root excepted",
    r"-i(=|e)": "the tool takes the whole word for the name: refused",
    r"--ctorigsrc 10.0.0.1/33|--hbh-opts 256|--on-port 70000": "the tool takes a number that is too big for another one: refused",
    r"--srh-\S+-gt 1": "the tool prints another number than it has loaded",
    r"--to-source 10.0.0.1:5-6/7|--to 10.0.0.0/255.0.255.0": "the tool prints another value than it was given",
    r"-j QUEUE$": "nf_tables knows no -j QUEUE",
    r"(-m tcp|--dport 80) .*-m tcp --sport|! --tcp-flags NONE NONE|! --sport 0:65535|! -p tcp .*--dport 80": "nf_tables loads -m tcp natively",
    r"--nflog-prefix a{64}": "nf_tables takes longer prefixes, up to 127 bytes",
}  # fmt: skip


def rules() -> list[tuple[int, str, str]]:
    found, families, table = [], "", ""
    for line in sample("iptables-rules.txt").splitlines():
        section = re.fullmatch(r"\[(\d+) (\w+)\]", line)
        if section:
            families, table = section.groups()
        elif not line.startswith("#"):
            found += [(int(family), table, re.sub(r"@[A-Z]+", lambda name, of=NAMES[int(family)]: of[name[0]], line)) for family in families]
    return sorted(found, key=lambda one: one[:2])


def ours(family: int, rule: str, flavour: str) -> list[str] | None:
    try:
        return [print_rule(one, family, flavour=flavour).strip() for one in read_rule(split(rule), family, {"USERCHAIN"}, flavour=flavour)]
    except RuleError:
        return None


@cache
def compared(flavour: str) -> list[tuple[str, list[str] | None, list[str] | None]]:
    """Every rule with the tool's text and ours."""
    cases = [(family, table, rule, ours(family, rule, flavour)) for family, table, rule in rules()]
    cases.sort(key=lambda one: (one[0], one[1], one[3] is None))
    asked = [[f"ip{'6' if family == 6 else ''}tables-{flavour}", table, rule, mine is not None] for family, table, rule, mine in cases]
    driver = Path(__file__).with_name("ask_iptables.py")
    tools = ("ipset", "nfacct", f"iptables-{flavour}-restore", f"ip6tables-{flavour}-restore")
    answers = json.loads(in_netns(f"{SETUP}\n{sys.executable} {driver}", *tools, stdin=json.dumps(asked)))
    return [(f"IPv{family} {rule}", answer, mine) for (family, _, rule, mine), answer in zip(cases, answers, strict=True)]


def reason(rule: str) -> str | None:
    return next((why for pattern, why in DIFFERENT.items() if re.search(pattern, rule)), None)


@pytest.mark.parametrize("flavour", ["legacy", "nft"])
def test_every_rule_is_printed_or_refused_as_the_real_tool_does(flavour):
    wrong = [(rule, theirs, mine) for rule, theirs, mine in compared(flavour) if theirs != mine and reason(rule) is None]
    assert not wrong, "\n".join(f"{rule}\n   tool: {theirs}\n   ours: {mine}" for rule, theirs, mine in wrong)


def test_what_may_differ_does():
    differing = {reason(rule) for flavour in ("legacy", "nft") for rule, theirs, mine in compared(flavour) if theirs != mine}
    assert not set(DIFFERENT.values()) - differing


def test_many_rules_are_asked_and_most_are_accepted():
    answers = compared("legacy")
    assert len(answers) > 2000
    assert sum(theirs is not None for _, theirs, _ in answers) > 1000
    assert sum(theirs is None for _, theirs, _ in answers) > 500
