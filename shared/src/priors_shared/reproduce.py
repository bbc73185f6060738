"""`reproduce`: run every installed package's quick experiments; write one HTML report.

A package registers a function in the entry-point group `priors.reproduce`:

    def run(report_dir: Path, quick: bool, progress: type[Progress], results: Path) -> Section

It writes its files to `report_dir`, which exists, takes minutes on two cores where `quick`, shows
`with progress(total, description) as bar: bar.advance(loss=0.3)`, and returns its part of the page, with what earlier
long runs left in `results`, if that folder is there.
"""

import argparse
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from priors_shared.console import Progress, run_cli
from priors_shared.errors import UserError

GROUP = "priors.reproduce"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script `reproduce`; exit with code 1 if an experiment failed."""
    parser = argparse.ArgumentParser(
        prog="reproduce",
        description="Run the quick experiments of every installed package, on the CPU with "
        "built-in data and nothing to download, and write one HTML report.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (default: report)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="run this package's experiments; may be repeated (default: all)",
    )
    parser.add_argument(
        "--full", action="store_true", help="the long experiments: hours, and real data"
    )
    claims = parser.add_argument_group("claims", "The ledger of claims and its verdicts.")
    claims.add_argument(
        "--check", action="store_true", help="make every verdict again from the stored rows"
    )
    claims.add_argument(
        "--update", action="store_true", help="write the ledger and the pages' tables of it anew"
    )
    claims.add_argument(
        "--claim", metavar="ID", help="run a claim's experiment from scratch at its stored scale"
    )
    claims.add_argument(
        "--results",
        type=Path,
        default=Path("docs/results"),
        metavar="DIR",
        help="folder of the stored rows (default: docs/results)",
    )
    claims.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder of a claim's trainings; those that it holds are used again (default: runs)",
    )
    options = parser.parse_args(argv)
    run_cli(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from priors_shared.claims import commands

    if sum(map(bool, (options.check, options.update, options.claim, options.only))) > 1:
        raise UserError("give one of --check, --update, --claim and --only")
    if options.check:
        return commands.check(options.results)
    if options.update:
        return commands.update(options.results)
    if options.claim:
        return commands.rerun(options.claim, options.results, options.out / "claims", options.runs)
    return reproduce(
        options.out, only=options.only, quick=not options.full, results=options.results
    )


def reproduce(
    out: Path,
    *,
    only: Sequence[str] = (),
    quick: bool = True,
    results: Path = Path("docs/results"),
) -> int:
    """Run the registered experiments and write `out`/index.html; return the number that failed.

    A failing package gets a section that says so and a file error.txt; the others run on.

    Args:
        out: folder of the report; each package has a folder of its own in it.
        only: names of packages; all where empty.
        quick: minutes rather than hours.
        results: folder of stored rows; with a matrix of claims from them, and `out`/claims.json, where it is there.

    Raises:
        UserError: a name that is not registered, nothing registered, or `out` is a file.
    """
    chosen = _choose(only)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file is in the way")
    out.mkdir(parents=True, exist_ok=True)

    # Late: the report needs it, the help does not.
    from priors_shared.reports import Section, write_html

    overview = _overview(out, results)

    sections: list[Section] = []
    failed = 0
    began = time.monotonic()
    for number, entry in enumerate(chosen, start=1):
        _say(f"[{number}/{len(chosen)}] {entry.name}")
        started = time.monotonic()
        section, ended = _section_of(entry, out, quick, results)
        sections.append(section)
        failed += not ended
        _say(f"[{number}/{len(chosen)}] {entry.name}: {time.monotonic() - started:.0f} s")
        # After each package: an interrupted run leaves a report of what it did.
        write_html(
            out / "index.html",
            "Reproduction report",
            sections,
            facts=_facts(quick, time.monotonic() - began),
            overview=overview,
        )
    sys.stdout.write(f"{out / 'index.html'}\n")
    return min(failed, 1)


def _section_of(entry: EntryPoint, out: Path, quick: bool, results: Path) -> tuple[Any, bool]:
    """A package's `Section` of the report, with links to the files that it wrote; and whether it could be run."""
    from priors_shared.reports import Links, Section, Verdict

    folder = out / entry.name
    folder.mkdir(exist_ok=True)
    started, ended = time.monotonic(), True
    try:
        section = entry.load()(folder, quick, Progress, results)
        if not isinstance(section, Section):
            raise TypeError(f"{entry.value} returned a {type(section).__name__}, not a Section")
    except Exception as error:  # whatever it is, the others' results are wanted
        ended = False
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        line = " ".join(f"{type(error).__name__}: {error}".split())
        _say(f"error: {entry.name}: {line} (see {folder / 'error.txt'})")
        section = Section(entry.name, [Verdict(False, f"It could not be run. {line}")])
    else:
        (folder / "error.txt").unlink(missing_ok=True)
    seconds = time.monotonic() - started
    files = [path.relative_to(out).as_posix() for path in sorted(folder.rglob("*.*"))]
    written = Section(f"Files written, in {seconds:.0f} s", [Links(files)], folded=True)
    return replace(section, parts=[*section.parts, written]), ended


def _overview(out: Path, results: Path) -> str:
    """The matrix of claims, from stored rows; they are written beside the page."""
    if not results.is_dir():
        return ""
    from priors_shared.claims import books, ledger, write_ledger
    from priors_shared.claims.matrix import claims_matrix

    records = ledger(results, books())
    write_ledger(out / "claims.json", records)
    return claims_matrix(records)


def _choose(only: Sequence[str]) -> list[EntryPoint]:
    registered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if not registered:
        raise UserError("no experiments are installed: pip install memory-adapt, for instance")
    for name in only:
        if name not in registered:
            raise UserError(f"--only {name}: choose from {', '.join(sorted(registered))}")
    return [registered[name] for name in sorted(set(only) or registered)]


def _facts(quick: bool, seconds: float) -> dict[str, str]:
    from datetime import UTC, datetime

    from priors_shared.devices import hardware
    from priors_shared.environment import source_commit

    here = hardware()
    devices = ", ".join(here["accelerators"]) or "no accelerator"
    return {
        "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Setting": "quick (CPU, built-in data)" if quick else "full",
        "Time": f"{seconds / 60:.1f} minutes",
        "Hardware": f"{here['cpu']}, {here['cores']} cores; {devices}",
        "Software": f"Python {platform.python_version()}, torch {here['torch']}",
        "Commit": source_commit() or "not run from a repository",
    }


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
