"""The verb `cost`."""

from __future__ import annotations

from dataclasses import dataclass

from memory_adapt.cli.records import write_record
from priors_shared.cli import OutFile, Threads
from priors_shared.console import print_table
from priors_shared.options import say


@dataclass(frozen=True, kw_only=True)
class Cost:
    """GFLOPs and measured time of one step of adaptation, for every model."""

    measure: bool = True
    """also time steps of adaptation on this machine's CPU"""
    threads: Threads = None
    out: OutFile = None

    def run(self) -> None:
        """Print the table; write the numbers that are asked for."""
        from memory_adapt.cost import cost_table
        from priors_shared.devices import set_threads
        from priors_shared.files import check_output_file

        set_threads(self.threads)
        if self.out is not None:
            check_output_file(self.out)
        rows = cost_table(measure=self.measure)
        columns = list(rows[0])
        names = [column.replace("_", "\n") for column in columns]  # narrow: there are many
        print_table("", names, [[_number(row[c]) for c in columns] for row in rows])
        if self.out is not None:
            write_record(self.out, {"rows": rows})
            say(f"results  {self.out}")


def _number(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
