"""`hyperfields study` and `hyperfields ranks`: raters rank several methods' scenes blind (Table 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.options import Result
from priors_shared.errors import UserError
from priors_shared.options import say


@dataclass(frozen=True, kw_only=True)
class Study:
    """A page on which raters rank what several methods made of the same prompts (4.4.4).

    It holds all images, in an order of its own for each rater, and no method's name.
    """

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="FOLDER FOLDER [...]")] = ()
    """one for each method, named as it; in each an image or video of every prompt, named as the prompt"""
    out: Annotated[Path, arg(metavar="PAGE.html", aliases=["-o"])] = Path("study.html")
    """page for raters; the key goes beside it"""
    seed: int = 0
    """seed of the codes that stand for methods in the page"""

    def run(self) -> None:
        """Write the page and its key."""
        if self.out.suffix.lower() != ".html":
            raise UserError(f"out {self.out}: the page's name must end in .html")
        from hyperfields.study import write_study

        key = write_study(self.folders, self.out, seed=self.seed)
        say(f"page      {self.out}: send it to raters, who send back a CSV")
        say(f"key       {key}: keep it from them")
        say(f"next      hyperfields ranks {key} ANSWERS.csv ...")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Average ranks from raters' answers (Table 4.2); 1 is best."""

    key: Annotated[Positional[Path], arg(metavar="PAGE.key.json")]
    """what study wrote beside the page"""
    answers: Annotated[Positional[tuple[Path, ...]], arg(metavar="ANSWERS.csv [...]")] = ()
    """what raters saved"""
    out: Result = None

    def run(self) -> None:
        """Print the ranks."""
        from hyperfields.study import average_ranks
        from priors_shared.cli import command_line
        from priors_shared.devices import hardware
        from priors_shared.reports import write_result

        rows = average_ranks(self.key, self.answers)
        raters = rows[0]["all prompts"].seeds
        say(f"{raters} rater{'s' * (raters != 1)}; 1 is best; ± is half a 95 % interval")
        for row in rows:
            say(row["model"])
            for name, rank in list(row.items())[1:]:
                spread = "" if rank.spread is None else f" ± {rank.spread:.2f}"
                say(f"  {name:<32}  {rank.mean:.2f}{spread}")
        if self.out is not None:
            write_result(
                self.out,
                experiment="table-4.2",
                claim="raters rank this method before the others",
                rows=rows,
                config={"key": str(self.key)},
                seeds=[],
                data=f"answers of {raters} raters, who each saw the methods in random order",
                hardware=hardware(),
                command=command_line(),
                thesis={},
            )
            say(f"result    {self.out}")
