"""The one list of checks; the README and .ci/run call it."""

import re
import shutil
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "types", "isolated"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
PACKAGES = {  # distribution: its folder
    "priors-shared": ROOT / "shared",
    "memory-adapt": ROOT / "packages" / "memory-adapt",
    "hypernet-maml": ROOT / "packages" / "hypernet-maml",
    "hyperfields": ROOT / "packages" / "hyperfields",
    "molfeat-diffusion": ROOT / "packages" / "molfeat-diffusion",
}
CONSTRAINTS = ROOT / "constraints.txt"


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run every package's tests and those across packages; arguments after -- go to pytest."""
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style, formatting and which module may import which."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the types of every package's source."""
    session.run("mypy")


@nox.session(venv_backend="none")
def dist(session: nox.Session) -> None:
    """Build every package's sdist, and its wheel from the sdist, into dist/."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("uv", "build", "--all-packages", "--out-dir", "dist", "--quiet")
    artifacts = sorted(str(path) for path in (ROOT / "dist").glob("*.[wt]*"))
    session.run("twine", "check", "--strict", *artifacts)


@nox.session(venv_backend="uv", requires=["dist"])
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def isolated(session: nox.Session, package: str) -> None:
    """Install one wheel alone, with only the other wheels beside it, and test it from outside."""
    module = package.replace("-", "_")
    (wheel,) = (ROOT / "dist").glob(f"{module}-*.whl")
    # The version stays while the code changes: no wheel of ours may come from uv's cache.
    fresh = [f"--refresh-package={name}" for name in PACKAGES]
    beside = ["--find-links", str(ROOT / "dist")]
    session.install("--constraint", str(CONSTRAINTS), *beside, *fresh, str(wheel))
    session.run("uv", "pip", "check")

    with tempfile.TemporaryDirectory() as outside, session.chdir(outside):
        session.run("python", "-c", f"import {module} as m; print(m.__version__, m.__file__)")
        # Before pytest comes in: what a user's environment holds is enough to start.
        for script in _scripts(package):
            session.run(script, "--help", silent=True)

        session.install("--constraint", str(CONSTRAINTS), "beartype", "hypothesis", "pytest")
        shutil.copytree(PACKAGES[package] / "tests", Path(outside, "tests"))
        session.run(
            "pytest",
            "tests",
            "--import-mode=importlib",
            "--strict-markers",
            f"--jaxtyping-packages=priors_shared,{module},beartype.beartype",
            *("-m", "not reference"),
            *session.posargs,
        )


@nox.session(venv_backend="none", default=False)
def pin(session: nox.Session) -> None:
    """Renew the pins: the newest versions that resolve for every Python and platform we support."""
    pyproject = ROOT / "pyproject.toml"
    before, key, _ = pyproject.read_text().partition("constraint-dependencies = [")
    pyproject.write_text(f"{before}{key}]\n")
    # One version of each for all Pythons: a constraint is a line without conditions.
    session.run("uv", "lock", "--upgrade", "--fork-strategy", "fewest", silent=True)
    exported = session.run(
        *("uv", "export", "--frozen", "--quiet", "--all-groups", "--all-extras"),
        *("--no-emit-workspace", "--no-hashes", "--no-annotate", "--no-header"),
        silent=True,
    )
    pins = sorted(set(re.findall(r"^[\w.-]+==[^\s;]+", exported, flags=re.MULTILINE)))
    header = "# Versions that the checks run with. Written by `uv run nox -s pin`.\n"
    CONSTRAINTS.write_text(header + "".join(f"{line}\n" for line in pins))
    pyproject.write_text(f"{before}{key}\n" + "".join(f'    "{line}",\n' for line in pins) + "]\n")


def _scripts(package: str) -> list[str]:
    project = nox.project.load_toml(PACKAGES[package] / "pyproject.toml")["project"]
    return list(project.get("scripts", {}))
