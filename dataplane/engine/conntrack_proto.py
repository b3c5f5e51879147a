"""Which protocol tracker a packet belongs to: the one place where conntrack asks TCP, SCTP, or one of the simple ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dataplane.engine import conntrack_other as other
from dataplane.engine import conntrack_sctp as sctp
from dataplane.engine import conntrack_tcp as tcp
from dataplane.engine.conntrack_tcp import ACCEPT, REPEAT, Result
from dataplane.inet import SCTP, TCP

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

Tracking = tcp.TcpTracking | sctp.SctpTracking | other.OtherTracking
