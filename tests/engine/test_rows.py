"""Every match and target that can be read has a model, or stands here with the reason why not."""

from __future__ import annotations

from dataplane.engine.matches import MATCHES
from dataplane.engine.targets import TARGETS
from dataplane.text import xtables_options

#: Answered by the walk itself.
VERDICTS = {"ACCEPT", "DROP", "RETURN"}

MATCHES_NOT_MODELLED = {
    "ipcomp": "a Packet has no CPI",
    "l2tp": "a Packet has no L2TP header",
    "mh": "a Packet has no mobility header",
    "osf": "it reads the order of TCP options",
    "rateest": "rate estimators live in the kernel only",
    "srh": "a Packet has no segment routing header",
}

TARGETS_NOT_MODELLED = {
    "CLUSTERIP": "gone from the kernel since 6.2",
    "HMARK": "a keyed hash of the packet decides the mark",
    "SYNPROXY": "the kernel answers the SYN itself and opens a second connection",
    "ULOG": "gone from the kernel since 3.17",
}


def test_every_match_that_can_be_read_has_a_model_or_a_reason() -> None:
    assert set(xtables_options.MATCHES) - set(MATCHES) <= set(MATCHES_NOT_MODELLED)
    assert not set(MATCHES) & set(MATCHES_NOT_MODELLED)


def test_every_target_that_can_be_read_has_a_model_or_a_reason() -> None:
    assert set(xtables_options.TARGETS) - set(TARGETS) - VERDICTS <= set(TARGETS_NOT_MODELLED)
    assert not set(TARGETS) & set(TARGETS_NOT_MODELLED)
