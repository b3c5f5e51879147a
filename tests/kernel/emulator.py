"""The other side: what the emulator says could become of packets. The one place that knows how it is called."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.kernel.lines import Line, Packet, write_packets
from tests.kernel.snapshot import Snapshot, write

_SECONDS: Final = 600


class EmulatorError(Exception):
    """The emulator gave no answer; its own words."""


def exists() -> bool:
    return importlib.util.find_spec("dataplane.__main__") is not None


def ask(snapshot: Snapshot, packets: Sequence[Packet]) -> list[Line]:
    """Every outcome that the emulator holds possible, packet by packet. EmulatorError if it fails."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(directory / "snapshot", snapshot)
        (directory / "packets.jsonl").write_text(write_packets(packets))
        command = [sys.executable, "-m", "dataplane", "trace", "--snapshot", str(directory / "snapshot")]
        command += ["--packets", str(directory / "packets.jsonl"), "--all", "-o", "jsonl"]
        done = subprocess.run(command, text=True, capture_output=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise EmulatorError(f"status {done.returncode}: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
