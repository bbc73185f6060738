"""The ledger of claims: what the thesis says, what the stored rows say of it, by one rule."""

from priors_shared.claims.claim import EACH, Book, Claim, Match, values_at
from priors_shared.claims.ledger import books, ledger, read_ledger, result_file, write_ledger
from priors_shared.claims.verdicts import Judgement, Verdict, judge

__all__ = [
    "EACH",
    "Book",
    "Claim",
    "Judgement",
    "Match",
    "Verdict",
    "books",
    "judge",
    "ledger",
    "read_ledger",
    "result_file",
    "values_at",
    "write_ledger",
]
