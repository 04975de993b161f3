"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("SCALES", "Scale")


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes and repetitions of a run."""

    name: str
    rounds: int
    """How often everything is measured; the medians of the rounds count."""
    client_calls: int
    """Calls of the C client in one round."""
    calls: int
    """Calls in one round of an in-process measurement."""
    walk_calls: int
    """The same where one call may take tens of milliseconds."""
    madvise_sizes: tuple[int, ...]
    """VMAs of the BO whose one VMA gets advice."""
    bind_sizes: tuple[int, ...]
    """VMAs of the VM in which one page is bound and unbound."""
    memory_vmas: int
    """VMAs whose memory is measured."""
    stall_vmas: int
    """VMAs that the daemon holds while a client looks for stalls."""
    stall_calls: int
    """Calls of that client."""
    mappings: int
    """Mappings that are set up in one round."""
    purges: int
    """BOs that are purged under a mapping in one round."""
    copies: int
    """Copies of a whole mapping in one round."""
    live_bos: tuple[int, int]
    """Few and many BOs, beside which others come and go."""
    evict_sizes: tuple[int, int]
    """A small and a large BO to evict, bytes."""
    pick_bos: tuple[int, int]
    """Few and many BOs among which a victim is chosen."""
    passed_over: tuple[int, int]
    """Few and many BOs that are looked at in vain before a victim is found."""
    reclaims: int
    """Victims in one round."""
    exec_calls: int
    """Submissions of one kind in one round."""
    exec_jobs: int
    """Jobs on each engine in one round."""
    exec_depths: tuple[int, int]
    """Few and many jobs that are submitted at once to a queue; each at most `exec_jobs`."""
    exec_commands: int
    """Commands of one batch."""
    copy_size: int
    """Bytes that a batch copies."""
    wakes: int
    """Sleepers that are woken, one after the other."""
    waiters: int
    """Clients that wait at the same time, and are killed."""
    waiters_woken: int
    """Clients that wait at the same time, and are all woken."""
    waits: int
    """Waits whose memory is measured."""
    plain_rounds: int
    """How often calls are measured that no driver sees: they are short, and so easily disturbed."""
    plain_blocks: int
    """Blocks of such calls in one round."""
    igt_rounds: int
    """How often IGT's subtests are run."""


FULL = Scale(
    name="full",
    rounds=5,
    client_calls=20_000,
    calls=5_000,
    walk_calls=20,
    madvise_sizes=(1, 100, 10_000, 100_000),
    bind_sizes=(100, 10_000, 100_000, 1_000_000),
    memory_vmas=1_000_000,
    stall_vmas=100_000,
    stall_calls=50_000,
    mappings=2_000,
    purges=500,
    copies=20,
    live_bos=(10, 50_000),
    evict_sizes=(1 << 20, 64 << 20),
    pick_bos=(100, 50_000),
    passed_over=(1_000, 50_000),
    reclaims=2_000,
    exec_calls=1_000,
    exec_jobs=1_024,
    exec_depths=(16, 512),
    exec_commands=50_000,
    copy_size=16 << 20,
    wakes=300,
    waiters=400,
    waiters_woken=1_000,
    waits=100_000,
    plain_rounds=15,
    plain_blocks=2_000,
    igt_rounds=5,
)

QUICK = Scale(
    name="quick",
    rounds=3,
    client_calls=5_000,
    calls=1_000,
    walk_calls=5,
    madvise_sizes=(1, 100, 10_000),
    bind_sizes=(100, 10_000, 100_000),
    memory_vmas=100_000,
    stall_vmas=100_000,
    stall_calls=20_000,
    mappings=300,
    purges=100,
    copies=5,
    live_bos=(10, 20_000),
    evict_sizes=(1 << 20, 64 << 20),
    pick_bos=(100, 20_000),
    passed_over=(1_000, 10_000),
    reclaims=500,
    exec_calls=300,
    exec_jobs=1_024,
    exec_depths=(16, 512),
    exec_commands=20_000,
    copy_size=16 << 20,
    wakes=50,
    waiters=100,
    waiters_woken=200,
    waits=20_000,
    plain_rounds=9,
    plain_blocks=1_000,
    igt_rounds=3,
)

TINY = Scale(
    name="tiny",
    rounds=1,
    client_calls=20,
    calls=20,
    walk_calls=2,
    madvise_sizes=(1, 50),
    bind_sizes=(10, 50),
    memory_vmas=500,
    stall_vmas=500,
    stall_calls=20,
    mappings=5,
    purges=2,
    copies=1,
    live_bos=(1, 20),
    evict_sizes=(1 << 20, 2 << 20),
    pick_bos=(3, 100),
    passed_over=(10, 200),
    reclaims=5,
    exec_calls=5,
    exec_jobs=8,
    exec_depths=(2, 8),
    exec_commands=100,
    copy_size=1 << 20,
    wakes=3,
    waiters=4,
    waiters_woken=5,
    waits=100,
    plain_rounds=1,
    plain_blocks=5,
    igt_rounds=1,
)

SCALES = {scale.name: scale for scale in (FULL, QUICK, TINY)}
