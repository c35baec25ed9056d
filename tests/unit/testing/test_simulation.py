"""The simulation: replayable, full of faults, able to find what is broken, and silent about what is not."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import sidestage
from sidestage.testing.broken_stores import BROKEN
from sidestage.testing.chaos import Chaos, Fault, Rates
from sidestage.testing.simulate import main
from sidestage.testing.simulation import simulate

SOME = range(100)
QUIET = Rates(**dict.fromkeys(Rates.__struct_fields__, 0.0))


def test_no_promise_is_broken_in_histories_full_of_faults() -> None:
    faults: Counter[Fault] = Counter()
    published = 0
    for seed in SOME:
        history = simulate(seed)
        assert history.violations == (), (
            f"python -m sidestage.testing.simulate --from {seed} --seeds 1 --tell"
        )
        faults.update(history.faults)
        published += history.published
    assert set(faults) == set(get_args(Fault)), "each kind of fault is injected now and then"
    assert faults.total() >= 17 * len(SOME)
    assert published > 2 * len(SOME)


@pytest.mark.parametrize("promise", sorted(BROKEN))
def test_a_broken_promise_is_found_out(promise: str) -> None:
    seeds = (seed for seed in SOME if not simulate(seed).violations)
    assert any(simulate(seed, BROKEN[promise]).violations for seed in seeds)


def test_a_seed_is_one_history_wherever_it_is_played() -> None:
    code = "from sidestage.testing.simulation import simulate\nfor n in (3, 5, 8): simulate(n, tell=print)\n"
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": str(Path(sidestage.__file__).parents[1]),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    one, two = ([sorted(line) for line in each.splitlines()] for each in told)
    assert one == two, "only sets are told in any order"
    assert len(told[0].splitlines()) > 50
    assert simulate(3) == simulate(3)
    assert simulate(3) != simulate(4)


def test_without_faults_everything_is_done_at_once() -> None:
    for seed in SOME[:20]:
        history = simulate(seed, rates=QUIET)
        assert history.violations == ()
        assert history.faults == {}
        assert history.seconds < 10


def test_dice_that_are_calm_never_strike() -> None:
    chaos = Chaos(1, Rates())
    chaos.calm = True
    assert not chaos.strikes(1.0, "power cut")
    assert chaos.befalls(((1.0, "power cut"),)) is None
    chaos.calm = False
    assert chaos.befalls(((0.0, "wake-up lost"), (1.0, "power cut"))) == "power cut"
    assert chaos.counts == {"power cut": 1}


def test_only_what_is_asked_for_goes_wrong() -> None:
    rates = msgspec.structs.replace(QUIET, lost=0.3)
    faults: Counter[Fault] = Counter()
    for seed in SOME[:20]:
        faults.update(simulate(seed, rates=rates).faults)
    assert set(faults) == {"acknowledgement lost"}


def test_the_command_prints_counts_and_says_whether_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "40", "--break", "fencing"]) == 1
    told = capsys.readouterr().out
    assert "seed " in told
    assert "faults injected" in told
    assert "histories                   40   seeds 0 to 39" in told
    main(["--seeds", "1", "--from", "7", "--tell"])
    assert "w0.1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--seeds", "0"])
    assert "at least" in capsys.readouterr().err
