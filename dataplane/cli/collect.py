"""``dataplane collect``: a node's kernel into a snapshot."""

from __future__ import annotations

import click


@click.command("collect")
@click.option("--netns", "name", metavar="NAME", help="A network namespace by name, or by a path such as /proc/123/ns/net.  [default: this host]")
@click.option("--pid", type=click.IntRange(min=1), metavar="PID", help="The network namespace of a process (of a container).")
@click.option("--out", "directory", metavar="DIR", help="The snapshot directory to make.")
@click.option("--connections", is_flag=True, help="The connection table, too.")
@click.option("--print-script", is_flag=True, help="Print a shell script that does it on a node without Python, as a tar.")
def command(name: str | None, pid: int | None, directory: str | None, connections: bool, print_script: bool) -> int:
    """Read a network namespace or this host into a snapshot: what the native tools print of rules, sets, addresses, routes, parameters.

    \b
    sudo dataplane collect --out node-a/
    sudo dataplane collect --netns lab --out snap/
    dataplane collect --print-script | ssh node-a sudo sh > node-a.tar

    Nothing is changed, and nothing secret is read beyond rules and addresses.
    """
    from dataplane.adapters.collect import collect, script
    from dataplane.adapters.namespaces import checked, path_of

    if print_script:
        click.echo(script(), nl=False)
        return 0
    if directory is None:
        raise click.UsageError("say where the snapshot goes: --out DIR")
    if pid is not None:
        if name is not None:
            raise click.UsageError("--netns and --pid exclude each other")
        name = f"/proc/{pid}/ns/net"
    netns = None if name is None else name if name.startswith("/") else path_of(checked(name))
    files = collect(netns, directory, connections=connections, say=lambda text: click.echo(f"warning: {text}", err=True))
    click.echo(f"{directory}: {', '.join(files)}")
    return 0
