"""The summary as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from dataplane.replay.summary import Summary

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:1rem;color:#1b1f24;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #d5dae0;overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap}
.bar{background:#d5e3f5;height:.8rem;display:block}.bar i{background:#2b6cb0;height:100%;display:block}
@media(prefers-color-scheme:dark){body{background:#14181d;color:#dde3ea}td,th{border-color:#333c46}.bar{background:#26313d}}
"""
_FLOWS: Final = 50


def page(summary: Summary, name: str, warnings: Iterable[str]) -> str:
    """A whole page; nothing in it is fetched from elsewhere."""
    seconds = (summary.last - summary.first) / 1e9
    parts = [
        f"<h1>{escape(name)}</h1><p>{summary.packets} packets, {summary.octets} bytes, over {seconds:.3f} s of capture; "
        f"the node sent {summary.replies} ICMP errors and RSTs itself.</p>",
        _table("Verdicts", ("verdict", "packets", "bytes", ""), [
            (verdict, count, summary.verdict_octets[verdict], _bar(count, summary.packets)) for verdict, count in summary.verdicts.most_common()
        ]),
        _table("Services", ("Service", "endpoint", "flows", ""), [
            (service, endpoint, count, _bar(count, sum(shares.values()))) for service, shares in sorted(summary.services.items()) for endpoint, count in shares.most_common()
        ]),
        _table("Decided by rules", ("rule", "packets"), [(f"IPv{ref.family} {ref}", count) for ref, count in summary.rules.most_common()]),
        _table(f"Top flows of {len(summary.flows)}", ("flow", "verdict", "Service", "packets", "bytes"), [
            (str(key), flow.verdict, flow.service, flow.packets, flow.octets)
            for key, flow in sorted(summary.flows.items(), key=lambda item: -item[1].octets)[:_FLOWS]
        ]),
        _table("Not understood", ("why", "packets"), list(summary.not_understood.most_common())),
        _table("Warnings", ("what",), [(warning,) for warning in warnings]),
    ]  # fmt: skip
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(name)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=\"en\"><head>{head}</head><body>{''.join(parts)}</body></html>\n"


class _Markup(str):
    """Text that is HTML already."""


def _bar(part: int, whole: int) -> _Markup:
    return _Markup(f'<span class="bar"><i style="width:{100 * part / max(1, whole):.1f}%"></i></span>')


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="n">{value}</td>'
    return f"<td>{value if isinstance(value, _Markup) else escape(str(value))}</td>"
