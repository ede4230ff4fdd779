"""`metafuse doctor`: print what was checked on this machine."""

import typer
from rich.console import Group
from rich.text import Text

from deployments.cli.answer import Answer
from deployments.cli.command import command

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "doctor")
    def doctor() -> Answer:
        """Check this machine and installation; every finding that is not ok says what to do.

        Exits with 1 if anything fails.

        Example: metafuse doctor
        """
        from deployments.doctor import run_checks

        findings = list(run_checks())
        failed = any(finding.status == "fail" for finding in findings)
        lines = [
            Text.assemble(
                (f"{finding.status:<5}", STYLES[finding.status]),
                (f"{finding.check:<10}", "bold"),
                finding.found,
                f"\n{'':15}-> {finding.remedy}" if finding.remedy else "",
            )
            for finding in findings
        ]
        facts = {"ok": not failed, "checks": [finding.as_dict() for finding in findings]}
        return Answer(facts, Group(*lines), exit_code=1 if failed else 0)
