"""The command line: one file a command, imported only when it is called, so that each starts fast.

Exit codes: 0 done, 1 it failed (or --expect did not hold), 2 wrong usage. Data goes to stdout, all else to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

import dataplane
from dataplane.errors import DataplaneError

_COMMANDS = {
    name: f"dataplane.cli.{name}" for name in ("trace", "compile", "compare", "replay", "path", "ways", "verify", "apply", "collect", "diff", "cleanup")
}


class _Lazy(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:  # Any: what the command returns
        """Whoever reads the output may stop reading: that is no failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _close_quietly()
            return 0


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(dataplane.__version__, prog_name="dataplane")
def cli() -> None:
    """What does a Kubernetes node do with this packet?

    dataplane compiles Services as kube-proxy does and walks packets through the rules as the Linux kernel does: without root,
    without a cluster.

    \b
    From manifests (what is missing is filled in as the control plane would, and said):
      dataplane trace -f manifests/ --node node-a 'tcp 203.0.113.7:40000 > 198.51.100.10:80'
    From a node's own dumps (iptables-save > DIR/iptables-save.txt, ip -j addr > DIR/ip-addr.json, …):
      dataplane trace --snapshot DIR --in eth0 --all 'udp 10.244.1.5:5353 > 10.96.0.10:53'
    The rules themselves:
      dataplane compile -f manifests/ --node node-a -o save
    """


def main(argv: list[str] | None = None) -> None:
    """The entry point: errors become one clear message, never a traceback."""
    try:
        code = cli.main(args=argv, prog_name="dataplane", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except DataplaneError as error:
        _complain(error)
        sys.exit(1)
    except BrokenPipeError:
        _close_quietly()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(1)


def _close_quietly() -> None:
    """Nothing more can be written, not even when Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: Any) -> None:
    text = str(error)
    click.echo("\n".join(f"error: {line}" if not line.startswith("    ") else line for line in text.splitlines()), err=True)
