"""Texts of one compiler, before and after a change: the input that is made of them does to the rules what the whole new text would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.text.iptables import apply_restore, print_save
from dataplane.text.resync import resync_input

NAMES = [f"KUBE-{letter}" for letter in "ABCDEF"]
RULES = st.lists(st.sampled_from([f"-s 10.0.0.{number}/32 -j ACCEPT" for number in range(6)]), max_size=5)
CHAINS = st.dictionaries(st.sampled_from(NAMES), RULES)
JUMPS = "*nat\n:KUBE-A - [0:0]\n-I PREROUTING -j KUBE-A\nCOMMIT\n"


def text(filters: dict[str, list[str]], nats: dict[str, list[str]]) -> str:
    parts = [JUMPS]
    for table, chains in (("filter", filters), ("nat", nats)):
        heads = [f":{name} - [0:0]" for name in chains]
        parts.append("\n".join([f"*{table}", *heads, *(f"-A {name} {rule}" for name, rules in chains.items() for rule in rules), "COMMIT", ""]))
    return "".join(parts)


def rules(*inputs: str) -> str:
    made = None
    for one in inputs:
        made = apply_restore(made, one, 4, noflush=True)
    return print_save(made)


@given(st.tuples(CHAINS, CHAINS), st.tuples(CHAINS, CHAINS))
def test_what_is_fed_leads_there(before, after):
    old, new = (text(filters, {"KUBE-A": [], **nats}) for filters, nats in (before, after))
    found = resync_input(old, new)
    if found is not None:
        assert rules(old, found) == rules(new)


def test_a_small_change_among_many_rules_is_told_by_few_lines():
    nats = {f"KUBE-SVC-{number}": [f"-s 10.0.{number % 200}.{place}/32 -j ACCEPT" for place in range(9)] for number in range(3000)}
    changed = {**nats, "KUBE-SVC-1500": [*nats["KUBE-SVC-1500"][:4], "-s 10.9.9.9/32 -j DROP", *nats["KUBE-SVC-1500"][5:]]}
    changed["KUBE-SVC-NEW"] = changed.pop("KUBE-SVC-2000")
    old, new = (text({"KUBE-F": []}, {"KUBE-A": [], **one}) for one in (nats, changed))
    found = resync_input(old, new)
    assert found is not None and len(found.splitlines()) < 30
    assert rules(old, found) == rules(new)


def test_nothing_is_fed_where_nothing_differs():
    assert resync_input(text({}, {"KUBE-A": ["-j ACCEPT"]}), text({}, {"KUBE-A": ["-j ACCEPT"]})) == ""


def test_changes_outside_of_its_chains_are_left_to_others():
    old = text({}, {"KUBE-A": []})
    assert resync_input(old, old.replace("-I PREROUTING", "-I OUTPUT")) is None
    assert resync_input(old, old.replace("*filter", "*mangle")) is None
