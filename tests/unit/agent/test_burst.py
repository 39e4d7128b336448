"""CPU accounts: what is left grows, what is taken shrinks, nothing is taken that was not saved."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent import burst
from godwit.base import errors
from godwit.wire.host_rpc import CpuShare, Resources

SECOND = 1_000_000
SMALL = Resources()
sizes = st.builds(
    Resources,
    cpu_kind=st.sampled_from(["shared", "performance"]),
    cpus=st.sampled_from([1, 2, 4, 6, 8]),
)


class HandClock:
    """A clock that passes only when it is told to."""

    def __init__(self) -> None:
        self.at_s = 1_000.0

    def now_ms(self) -> int:
        return int(self.at_s * 1_000)

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds


class Kernel:
    """Machines that use what they want, as far as their quota lets them."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.throttled: dict[str, int] = {}
        self.quota: dict[str, int] = {}
        self.written = 0
        self.read = 0
        self.refuses = False

    def used_us(self, machine_id: str) -> int | None:
        self.read += 1
        return self.used.get(machine_id)

    def throttled_us(self, machine_id: str) -> int:
        return self.throttled.get(machine_id, 0)

    def set_quota(self, machine_id: str, quota: int) -> None:
        if self.refuses:
            raise errors.Failure("unavailable", "refused")
        self.written += 1
        self.quota[machine_id] = quota

    def boot(self, machine_id: str, resources: Resources = SMALL) -> None:
        self.used[machine_id] = 0
        self.quota[machine_id] = burst.share(resources).full_us

    def let_run(self, machine_id: str, wish: float, seconds: float) -> int:
        """Let it want that many CPUs; return what it got, in µs."""
        most = self.quota[machine_id] / burst.PERIOD_US
        got = round(min(wish, most) * seconds * SECOND)
        self.used[machine_id] += got
        return got


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.kernel = Kernel()
        self.bursts = burst.Bursts(self.kernel, self.clock)

    def pass_time(self, machine_id: str, wish: float, seconds: float) -> int:
        """Let time pass in steps of the loop; return the CPU time that was used, in µs."""
        got = 0
        for _ in range(round(seconds / burst.LOOK_S)):
            got += self.kernel.let_run(machine_id, wish, burst.LOOK_S)
            self.clock.at_s += burst.LOOK_S
            self.bursts.look()
        return got

    def balance_s(self, machine_id: str) -> float:
        found = self.bursts.figures(machine_id)
        assert found is not None
        return found.balance / 100


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_machine_bursts_for_its_balance_and_is_then_held_to_the_baseline(bench: Bench):
    bench.kernel.boot("m")
    bench.bursts.follow("m", "b", SMALL)
    bench.bursts.look()
    assert bench.kernel.quota["m"] == burst.share(SMALL).full_us
    spent = bench.pass_time("m", 1.0, 60)
    assert spent == pytest.approx(5 * SECOND + 60 * SECOND * 0.0625, rel=0.03)
    assert bench.kernel.quota["m"] == pytest.approx(5_000, abs=200)
    assert bench.pass_time("m", 1.0, 100) == pytest.approx(100 * SECOND * 0.0625, rel=0.05)


def test_resting_saves_what_the_baseline_would_have_given_up_to_a_ceiling(bench: Bench):
    bench.kernel.boot("m")
    bench.bursts.follow("m", "b", SMALL)
    bench.bursts.look()
    bench.pass_time("m", 0.0, 160)
    assert bench.balance_s("m") == pytest.approx(5 + 160 * 0.0625)
    bench.pass_time("m", 0.0, 9_000)
    assert bench.balance_s("m") == 500


def test_the_burst_of_a_full_balance_lasts_as_long_as_the_specification_says(bench: Bench):
    """500/(1 − 0.0625) = 533 s at one vCPU."""
    bench.kernel.boot("m")
    bench.bursts.follow("m", "b", SMALL)
    bench.pass_time("m", 0.0, 10_000)
    lasted = 0
    while bench.kernel.quota["m"] >= burst.PERIOD_US and lasted < 1_000:
        bench.pass_time("m", 1.0, 2)
        lasted += 2
    assert lasted == pytest.approx(533, abs=8)


def test_a_performance_machine_is_never_held_back(bench: Bench):
    big = Resources(cpu_kind="performance", cpus=2)
    bench.kernel.boot("m", big)
    bench.bursts.follow("m", "b", big)
    assert bench.pass_time("m", 2.0, 2_000) == 2_000 * 2 * SECOND
    assert bench.kernel.quota["m"] == burst.share(big).full_us


def test_a_boot_is_not_charged(bench: Bench):
    bench.kernel.boot("m")
    bench.kernel.used["m"] = 40 * SECOND
    bench.bursts.follow("m", "b", SMALL)
    assert bench.balance_s("m") == 5


def test_another_run_begins_anew_and_the_same_goes_on(bench: Bench):
    bench.kernel.boot("m")
    bench.bursts.follow("m", "b", SMALL)
    bench.pass_time("m", 1.0, 60)
    bench.bursts.follow("m", "b", SMALL)
    assert bench.balance_s("m") == pytest.approx(0, abs=0.3)
    bench.bursts.follow("m", None, SMALL)
    assert bench.bursts.figures("m") is None
    bench.bursts.follow("m", "c", SMALL)
    assert bench.balance_s("m") == 5


def test_an_agent_takes_over_the_accounts_of_the_one_before(bench: Bench):
    bench.kernel.boot("m")
    bench.bursts.follow("m", "b", SMALL)
    bench.pass_time("m", 1.0, 60)
    kept = bench.bursts.dump()

    bench.clock.at_s += 80
    bench.bursts = burst.Bursts(bench.kernel, bench.clock)
    bench.bursts.load(kept)
    bench.bursts.follow("m", "b", SMALL)
    assert bench.balance_s("m") == pytest.approx(80 * 0.0625, abs=0.3)


def test_what_a_machine_took_while_no_agent_was_there_is_no_debt(bench: Bench):
    bench.kernel.boot("m")
    bench.bursts.follow("m", "b", SMALL)
    kept = bench.bursts.dump()
    bench.kernel.let_run("m", 1.0, 3_600)
    bench.clock.at_s += 3_600
    bench.bursts = burst.Bursts(bench.kernel, bench.clock)
    bench.bursts.load(kept)
    bench.bursts.follow("m", "b", SMALL)
    bench.bursts.look()
    assert bench.balance_s("m") == 0
    bench.pass_time("m", 0.0, 16)
    assert bench.balance_s("m") == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"m": 1}', '{"m": {"boot": "b"}}', '"x"', "null"])
def test_accounts_that_cannot_be_read_begin_anew(bench: Bench, text):
    bench.kernel.boot("m")
    bench.bursts.load(text)
    bench.bursts.follow("m", "b", SMALL)
    assert bench.balance_s("m") == 5


def test_a_refusal_for_one_machine_does_not_keep_the_others_from_being_held(bench: Bench, caplog):
    for name in ("m1", "m2"):
        bench.kernel.boot(name)
        bench.bursts.follow(name, "b", SMALL)
    bench.kernel.refuses = True
    bench.bursts.look()
    assert caplog.text.count("refused") == 2
    bench.kernel.refuses = False
    bench.pass_time("m1", 1.0, 40)
    assert bench.kernel.quota["m1"] < 6_000


def test_a_thousand_rested_machines_are_rarely_looked_at(bench: Bench):
    for number in range(1_000):
        bench.kernel.boot(f"m{number}")
        bench.bursts.follow(f"m{number}", "b", SMALL)
    bench.pass_time("m0", 0.0, 6_000)
    bench.kernel.read = bench.kernel.written = 0
    bench.pass_time("m0", 0.0, 60)
    assert bench.kernel.read <= 2_000
    assert bench.kernel.written == 0


def test_throttling_is_told_in_centiseconds(bench: Bench):
    bench.kernel.boot("m")
    bench.kernel.throttled["m"] = 2_340_000
    bench.bursts.follow("m", "b", Resources(cpus=2))
    assert bench.bursts.figures("m") == CpuShare(baseline=0.125, balance=500, throttle=234)


accounts = st.builds(
    burst.Account,
    balance_us=st.integers(0, burst.CEILING_US),
    used_us=st.integers(0, 10**15),
    at_s=st.floats(0, 1e6),
)


@given(sizes, accounts, st.integers(0, 10**15), st.floats(0, 1e6))
def test_a_balance_stays_between_nothing_and_the_ceiling(size, account, used_us, at_s):
    after = burst.advance(account, burst.share(size), used_us, at_s)
    assert 0 <= after.balance_us <= burst.CEILING_US
    assert (after.used_us, after.at_s) == (used_us, at_s)


@given(sizes, st.integers(0, burst.CEILING_US))
def test_a_quota_is_between_the_baseline_and_all_vcpus(size, balance_us):
    given_share = burst.share(size)
    quota = burst.quota_us(balance_us, given_share, burst.LOOK_S)
    assert given_share.baseline_us <= quota <= given_share.full_us


@given(sizes, st.lists(st.tuples(st.floats(0, 8), st.floats(0.1, 90)), max_size=40))
def test_nobody_gets_more_than_baseline_balance_and_the_last_look(size, wishes):
    """Whatever a machine does, and however late the loop is."""
    given_share = burst.share(size)
    account, total, passed = burst.Account(burst.INITIAL_US, 0, 0.0), 0, 0.0
    late = 0.0
    for wish, seconds in wishes:
        after_s = burst.look_after_s(account.balance_us, given_share)
        quota = burst.quota_us(account.balance_us, given_share, burst.LOOK_S)
        total += round(min(wish, quota / burst.PERIOD_US) * seconds * SECOND)
        passed += seconds
        late += max(0.0, seconds - after_s)
        account = burst.advance(account, given_share, total, passed)
    allowed = burst.INITIAL_US + given_share.of(passed)
    forgiven = late * SECOND * given_share.full_us / burst.PERIOD_US
    if size.cpu_kind == "shared":
        assert total <= allowed + forgiven + 1_000


def test_what_is_kept_is_json():
    bench = Bench()
    bench.kernel.boot("m")
    bench.bursts.follow("m", "b", SMALL)
    assert json.loads(bench.bursts.dump())["m"]["balance_us"] == burst.INITIAL_US
