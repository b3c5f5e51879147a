"""-m u32 and -m string: answered where the bytes that count are known, unknown elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.hooks import Unknown
from tests.engine.rig import TCP, TCP6, UDP, answer, skb

YES, NO = True, False
ROWS: list[tuple[str, str, dict[str, Any], bool]] = [
    ('-m u32 --u32 "6&0xff=6"', TCP, {}, YES),
    ('-m u32 ! --u32 "6&0xff=6"', TCP, {}, NO),
    ('-m u32 --u32 "6&0xff=6"', TCP6, {}, NO),
    ('-m u32 --u32 "12=0xc0000201&&16=0xc6336402"', TCP, {}, YES),
    ('-m u32 --u32 "0>>22&0x3c@0&0xffff=1:79,81:90"', TCP, {}, NO),
    ('-m u32 --u32 "0>>22&0x3c@0&0xffff=1:79,80:90"', TCP, {}, YES),
    ('-m u32 --u32 "8&0xff0000=0x60000"', TCP, {}, YES),  # beside a checksum that is not known
    ('-m u32 --u32 "8>>16=0x4006"', TCP, {}, YES),
    ('-m u32 --u32 "100=0"', TCP, {}, NO),  # beyond the end
    ('-m u32 --u32 "6&0xff=17&&20=0&&10=0"', TCP, {}, NO),  # one certain failure is enough
    ("-m string --string nowhere --algo bm", TCP, {}, NO),
    ("-m string ! --string nowhere --algo bm", TCP, {}, YES),
    ("-m string --hex-string |c6336402| --algo kmp", UDP, {}, YES),
    ("-m string --hex-string |c6336402| --algo kmp --to 19", UDP, {}, NO),
]  # fmt: skip


@pytest.mark.parametrize(("text", "packet", "fields", "expected"), ROWS)
def test_known_bytes_decide(text: str, packet: str, fields: dict[str, Any], expected: bool) -> None:
    assert answer(text, skb(packet, **fields)) is expected


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('-m u32 --u32 "10>>16=5"', {}),  # the checksum
        ('-m u32 --u32 "0>>22&0x3c@0=1"', {"ip_options": (7,)}),  # how long the header is
        ("-m string --string data --algo bm", {"length": 60, "payload": 20}),
        ('-m u32 --u32 "6&0xff=6"', {"length": 0}),
    ],
)
def test_what_nobody_knows_is_unknown(text: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Unknown, match="not known"):
        answer(text, skb(TCP, **fields))
