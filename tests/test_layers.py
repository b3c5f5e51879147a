"""Who may import what of the outside world (arrows between our own rooms are import-linter's, in `make check`)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dataplane"

#: Modules by the files that alone may import them.
OWNERS = {
    "scapy": ("adapters/",), "pyroute2": ("adapters/",), "subprocess": ("adapters/", "captures/records.py"), "numpy": ("replay/",), "yaml": ("kube/manifest.py",),
    "click": ("cli/",), "pytest": ("testing/plugin.py",), "hypothesis": ("testing/strategies.py",), "random": ("engine/choices.py", "verify/"),
    "time": ("adapters/",),
}  # fmt: skip


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("module", OWNERS)
def test_the_outside_world_is_imported_by_its_owner_alone(module):
    users = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py") if module in imported(file)}
    assert {user for user in users if not user.startswith(OWNERS[module])} == set()


def test_nothing_heavy_is_imported_that_a_trace_of_a_snapshot_does_not_need():
    code = (
        "import sys, dataplane.cli.trace, dataplane.node, dataplane.text.snapshot, dataplane.render.text\n"
        "print(sorted(sys.modules.keys() & {'yaml', 'scapy', 'numpy', 'pytest', 'hypothesis', 'asyncio', 'dataplane.kube.manifest'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent).stdout == "[]\n"
