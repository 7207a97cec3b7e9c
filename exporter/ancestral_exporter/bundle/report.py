"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ancestral.text import shown
from ancestral_exporter.errors import ExporterError


class VerifyError(ExporterError):
    """A bundle or a graph is not what it should be; the message lists every failed check."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, whether it held, and what was seen."""

    subject: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'FAILED':<7}{shown(self.subject)}: {shown(self.detail)}"


@dataclass
class VerifyReport:
    """Checks in the order they were made. Prints as one line each."""

    title: str
    checks: list[Check] = field(default_factory=list)

    def add(self, subject: str, ok: bool, detail: str) -> bool:
        self.checks.append(Check(subject, ok, detail))
        return ok

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]

    def raise_if_failed(self) -> None:
        if not self.ok:
            raise VerifyError("\n".join([f"{shown(self.title)}: verification failed", *map(str, self.failures)]))

    def __str__(self) -> str:
        verdict = "verified" if self.ok else f"{len(self.failures)} of {len(self.checks)} checks failed"
        return "\n".join([*map(str, self.checks), f"{shown(self.title)}: {verdict}"])
