"""-m ipvs: whether IPVS is done with a packet, and what its connection is.

The connection is looked up as that of the opposite packet's reply: so a masqueraded request is recognised once it has its real server's
address, and a reply is not. Source: net/netfilter/xt_ipvs.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.conntrack import is_reply
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import MatchRow
from dataplane.engine.skb import Skb
from dataplane.rules.iptables import Match

if TYPE_CHECKING:
    from dataplane.engine.ipvs_conn import IPVSConn

_METHODS: Final = {"MASQ": "masq", "GATE": "gate", "IPIP": "ipip"}


def _ipvs(match: Match, bind: Bind) -> Matcher:
    from dataplane.engine.ipvs_conn import connection_of_reply  # few rule sets ask for it

    wanted = {option.name: (option.value, option.negated) for option in match.options}
    done, undone = wanted.pop("ipvs", (None, False))[1], not wanted
    protocol = wanted.pop("vproto", None)
    way = wanted.pop("vdir", None)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if undone:
            return skb.ipvs_property != done
        if not skb.ipvs_property or (protocol is not None and (skb.protocol == protocol[0]) == protocol[1]):
            return False
        conn = connection_of_reply(bind.kernel, (skb.family, skb.protocol, skb.daddr, skb.dport, skb.saddr, skb.sport))
        if conn is None:
            return False
        if way is not None and (skb.conn is None or is_reply(skb.ctinfo) != (way[0] == "REPLY")):
            return False
        return all(_holds(bind, conn, name, value) != negated for name, (value, negated) in wanted.items())

    return matcher


def _holds(bind: Bind, conn: IPVSConn, name: str, value: object) -> bool:
    match name:
        case "vaddr":
            return conn.virtual[0] in value  # type: ignore[operator]  # a Prefix, by the option's kind
        case "vport":
            return conn.virtual[1] == value
        case "vmethod":
            return conn.method == _METHODS[str(value)]
        case "vportctl":
            from dataplane.engine.ipvs_conn import connection

            control = connection(bind.kernel, conn.control) if conn.control is not None else None
            return control is not None and control.virtual[1] == value
        case _:
            raise AssertionError(f"-m ipvs has no option {name}")


ROWS: Final[dict[str, MatchRow]] = {"ipvs": MatchRow(_ipvs, pure=False)}
