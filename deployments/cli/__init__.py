"""The `metafuse` command: one small module per group of commands, nothing heavy imported before a command runs.

`app` gathers the commands; `command` gives each of them `--home` and `--json`; `answer` prints what they return.
A command's body returns an `Answer` and prints nothing itself. What a command does lives in flows and tasks.
"""

from deployments.cli.app import main

__all__ = ["main"]
