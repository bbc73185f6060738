"""The console scripts: one grammar, quick help, and no documented command that does not exist."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

GRAMMAR = {"train", "eval", "export", "reproduce", "presets"}
# Width: an option's name is never broken over two lines.
PLAIN = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


@cache
def read_help(*command: str) -> str:
    """Help of a console script, or of a command of it; fails where the command does not exist."""
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert program is not None, f"{command[0]} is not installed beside {sys.executable}"
    ran = subprocess.run(
        [program, *command[1:], "--help"], capture_output=True, text=True, env=PLAIN
    )
    assert ran.returncode == 0, f"{' '.join(command)} --help failed:\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def documented_commands(root: Path, scripts: dict[str, str]) -> set[str]:
    """The lines of Markdown code blocks that call one of our scripts, comments left out."""
    pages = [
        *root.glob("*.md"),
        *root.glob("docs/**/*.md"),
        *root.glob("packages/*/*.md"),
        *root.glob("shared/*.md"),
    ]
    names = "|".join(map(re.escape, scripts))
    call = re.compile(
        rf"(?:^|&& |\$ )(?:uv run )?((?:{names})(?: [^#\n]*)?)(?:#.*)?$", re.MULTILINE
    )
    commands: set[str] = set()
    for page in pages:
        for block in re.findall(
            r"^```(?:\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            commands |= {command.strip() for command in call.findall(block.replace("\\\n", " "))}
    return commands


def test_each_package_has_the_common_verbs(scripts: dict[str, str]) -> None:
    for script in scripts.keys() - {"reproduce", "campaign"}:  # these are the repository's own
        assert set(re.findall(r"[\w-]+", read_help(script))) >= GRAMMAR


def test_help_answers_without_torch(script: str) -> None:
    code = (
        "import sys; from importlib.metadata import entry_points\n"
        f"(script,) = entry_points(group='console_scripts', name={script!r})\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n    script.load()()\nexcept SystemExit:\n    pass\n"
        "loaded = {'torch', 'matplotlib', 'scipy', 'lightning_fabric', 'rdkit', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'--help imported {sorted(loaded)}' if loaded else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=PLAIN)
    assert ran.returncode == 0, ran.stderr


def test_package_is_imported_without_torch(distribution: str) -> None:
    code = f"import sys, {distribution.replace('-', '_')}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_documented_commands_exist_with_their_options(root: Path, scripts: dict[str, str]) -> None:
    commands = documented_commands(root, scripts)
    assert "reproduce" in commands, "the README's first command"
    for command in sorted(commands):
        words = [word.strip("[]") for word in command.split()]
        options = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
        verb = [words[0]]
        if (
            words[0] not in ("reproduce", "campaign")
            and len(words) > 1
            and not words[1].startswith("-")
        ):
            verb.append(words[1])
            # An unknown verb must not pass because the program's own help was shown.
            assert " ".join(verb) in read_help(*verb), f"no such command: {command}"
        known = read_help(*verb)
        if not options <= set(re.findall(r"--[\w-]+", known)) and len(words) > 2:
            known += read_help(*verb, words[2])  # options of a preset
        missing = options - {"--help"} - set(re.findall(r"--[\w-]+", known))
        assert not missing, f"{sorted(missing)} not in the help of {' '.join(verb)}: {command}"


def test_documented_sessions_exist(root: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "nox", "--list", "-f", str(root / "noxfile.py")],
        capture_output=True,
        text=True,
        env=PLAIN,
        check=True,
    ).stdout
    sessions = set(re.findall(r"^[*-] ([\w]+)", listed, re.MULTILINE))
    for page in (root / "README.md", root / "CONTRIBUTING.md", root / ".ci" / "run"):
        for names in re.findall(r"nox -s ((?:[a-z]+ ?)+)", page.read_text()):
            assert set(names.split()) <= sessions, f"{page.name} names a session that is not there"
