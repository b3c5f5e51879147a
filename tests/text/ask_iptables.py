"""Run inside a network namespace: loads rules with iptables-restore and says what iptables-save makes of each.

Standard input: [[command, table, rule, loads], …] in JSON; ``loads`` tells which rules can be tried together. Output: a list of
saved lines a rule, or null where the tool refuses it.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

BATCH = 40


def load(command: str, table: str, rules: list[str]) -> list[list[str]] | None:
    """What every rule, in a chain of its own, is saved as; None where the tool refuses any."""
    text = "".join(f":R{n} - [0:0]\n" for n in range(len(rules))) + "".join(f"-A R{n} {rule}\n" for n, rule in enumerate(rules))
    done = subprocess.run([f"{command}-restore"], input=f"*{table}\n:USERCHAIN - [0:0]\n{text}COMMIT\n", capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    saved = subprocess.run([f"{command}-save", "-t", table], capture_output=True, text=True, check=True).stdout
    subprocess.run([f"{command}-restore"], input=f"*{table}\nCOMMIT\n", text=True, check=True)
    lines = [line.split(" ", 2) + [""] for line in saved.splitlines() if line.startswith("-A ")]
    return [[words[2].strip() for words in lines if words[1] == f"R{n}"] for n in range(len(rules))]


def ask(command: str, table: str, rules: list[str]) -> list[list[str] | None]:
    """Halves what is refused until the culprits are found."""
    saved = load(command, table, rules)
    if saved is not None:
        return list(saved)
    if len(rules) == 1:
        return [None]
    middle = len(rules) // 2
    return ask(command, table, rules[:middle]) + ask(command, table, rules[middle:])


def main() -> None:
    answers: list[list[str] | None] = []
    for (command, table, loads), group in itertools.groupby(json.load(sys.stdin), key=lambda one: (one[0], one[1], one[3])):
        rules, size = [one[2] for one in group], BATCH if loads else 1
        for start in range(0, len(rules), size):
            answers += ask(command, table, rules[start : start + size])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
