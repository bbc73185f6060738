"""The console script `campaign`: show what is left of every experiment, and have Snakemake do it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from priors_shared.campaign.plan import Job, jobs_of, lines
from priors_shared.console import run_cli
from priors_shared.errors import UserError
from priors_shared.files import lock_folder, write_atomically
from priors_shared.options import say, unknown

_SNAKEFILE = Path(__file__).with_name("Snakefile")
_DEFAULT_HOURS = 4.0  # of a job's time limit on a cluster, where no training was ever measured


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; exit with code 1 where a job failed."""
    parser = argparse.ArgumentParser(
        prog="campaign",
        description="List the trainings of every experiment and work them off: niced processes of one thread, each "
        "of which goes on where it was killed. What is done is never done again; what fails stops nothing else. "
        "Options after -- go to snakemake, such as: -- --executor slurm",
    )
    parser.add_argument("experiments", nargs="*", help="names, or nothing: all")
    parser.add_argument("--run", action="store_true", help="do it; without this, show the table")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--preset", choices=("cpu", "paper"), default="cpu")
    for name, default, text in (
        ("runs", "runs", "folder of the trainings"),
        ("out", "results", "folder of the results"),
        ("state", ".campaign", "folder of the engine's state and the jobs' logs"),
    ):
        parser.add_argument(
            f"--{name}",
            type=Path,
            default=Path(default),
            metavar="DIR",
            help=f"{text} (default: {default})",
        )
    arguments = list(sys.argv[1:] if argv is None else argv)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    run_cli(lambda: _run(options, arguments[split + 1 :]))


def _run(options: argparse.Namespace, engine_options: list[str]) -> int:
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: give 1 or more")
    if not options.run:
        say("\n".join(lines(plan(options))))
        return 0
    if find_spec("snakemake") is None:
        raise UserError(
            'snakemake is not installed: pip install "priors-shared[campaign]" (or list without --run)'
        )
    options.state.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(options.state)
    try:
        return _rounds(options, engine_options)
    finally:
        if lock is not None:
            lock.close()


def _rounds(options: argparse.Namespace, engine_options: list[str]) -> int:
    done: set[str] = set()
    while True:
        jobs = [j for j in plan(options) if j.state != "done" and j.name not in done]
        if not jobs:
            say("nothing is left to do")
            return 0
        say("\n".join(lines(jobs)))
        if _engine(jobs, options, engine_options):
            failed = [job for job in jobs if not (options.state / "done" / job.name).is_file()]
            for job in failed:
                say(f"not done  {job.name}  ({options.state / 'logs' / job.name}.log)")
            return 1
        # Trainings that build on those of this round, and their results, come next.
        done |= {job.name for job in jobs}


def plan(options: argparse.Namespace) -> list[Job]:
    """The jobs of the experiments that were asked for."""
    from priors_shared.claims import books

    jobs: list[Job] = []
    names: list[str] = []
    for book in books():
        known = dict(book.experiments())
        names += known
        chosen = {
            n: r for n, r in known.items() if not options.experiments or n in options.experiments
        }
        where = {"preset": options.preset, "runs": options.runs, "out": options.out}
        jobs += jobs_of(book.system, chosen, **where)  # type: ignore[arg-type]
    for name in options.experiments:
        if name not in names:
            raise UserError(unknown("experiment", name, names))
    return jobs


def _engine(jobs: Sequence[Job], options: argparse.Namespace, engine_options: list[str]) -> int:
    """Have Snakemake do the jobs; its exit code."""
    state: Path = options.state
    names = {job.name for job in jobs}
    record = {
        "folder": str(Path.cwd()),
        "jobs": [
            {
                "name": job.name,
                "after": [name for name in job.after if name in names],
                "command": shlex.join(job.command(options.preset, options.runs, options.out)),
                "minutes": round(90 * (job.core_hours or _DEFAULT_HOURS)),
            }
            for job in jobs
        ],
    }
    write_atomically(state / "plan.json", json.dumps(record, indent=1))
    for job in jobs:  # a marker of a run folder that is gone
        (state / "done" / job.name).unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "snakemake"),
        *("--snakefile", str(_SNAKEFILE), "--directory", str(state)),
        *("--config", f"plan={(state / 'plan.json').resolve()}"),
        *("--cores", str(options.jobs), "--jobs", str(options.jobs)),
        *("--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime"),
        *engine_options,
    ]
    # The programs of this environment, whichever way it was entered.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    # What an engine that was killed left locked: none is at work now, as the folder is ours.
    subprocess.run([*command, "--unlock"], env=environment, capture_output=True, check=False)
    return subprocess.run(command, env=environment, check=False).returncode
