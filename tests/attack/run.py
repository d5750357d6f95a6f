"""Attacks, one after the other, each for so many trials, or for so long."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from tests.attack.attacks import load_attack
from tests.attack.outcome import AttackError, RawError
from tests.attack.report import Tally

#: Seeds of one attack that is begun again and again are so far apart that those of the next run are others.
STRIDE = 1_000_003


@dataclass(frozen=True)
class Found:
    """What must not happen and has: by which attack, from which seed, at which trial."""

    attack: str
    seed: int
    trial: int
    error: AttackError

    def __str__(self) -> str:
        again = f"python -m tests.attack --seed {self.seed} --rounds {self.attack}={self.trial}"
        return f"{self.attack}, {self.error.column}: {self.error}\n  {again}"


@dataclass
class Run:
    """Attacks from `seed` on. `told` hears of what must not happen, `step` of each trial and its attack."""

    seed: int = 0
    told: Callable[[Found], None] = lambda found: None
    step: Callable[[str], None] = lambda attack: None
    tally: Tally = field(default_factory=Tally)
    found: list[Found] = field(default_factory=list)

    def for_rounds(self, rounds: Mapping[str, int]) -> None:
        """So many trials of each attack."""
        for attack, trials in rounds.items():
            self._repeat(attack, lambda done, trials=trials: done >= trials)  # type: ignore[misc]

    def for_seconds(self, attacks: list[str], seconds: float) -> None:
        """All attacks, for so long together and for equally long each, one trial at least."""
        for attack in attacks:
            end = time.monotonic() + seconds / len(attacks)
            self._repeat(attack, lambda done, end=end: done > 0 and time.monotonic() > end)  # type: ignore[misc]

    def _repeat(self, name: str, enough: Callable[[int], bool]) -> None:
        """Begins the attack from seed to seed, where it comes to its end or fails, until there has been enough."""
        attack, began, done = load_attack(name), time.monotonic(), 0
        for seed in count(self.seed, STRIDE):
            trial = 0
            try:
                trials = attack(seed)
                while not enough(done):
                    trial += 1
                    target, what = next(trials)
                    self.tally.add(name, target, what)
                    done += 1
                    self.step(name)
                trials.close()  # type: ignore[attr-defined]
            except StopIteration:
                pass
            except AttackError as error:
                done += self._keep(Found(name, seed, trial, error))
            except Exception as error:  # by its nature, anything may come
                done += self._keep(Found(name, seed, trial, RawError(name, f"{type(error).__name__}: {error}")))
            if enough(done):
                break
        self.tally.minutes[name] += (time.monotonic() - began) / 60

    def _keep(self, found: Found) -> int:
        """Counts it, as a trial, too."""
        self.found.append(found)
        self.tally.add_error(found.attack, found.error)
        self.told(found)
        self.step(found.attack)
        return 1
