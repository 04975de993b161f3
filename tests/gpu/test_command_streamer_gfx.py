"""Commands of the pipes, and which engines take which."""

from __future__ import annotations

import pytest

from tests.gpu.fake_gpu import COMPUTE, COPY, RENDER, VIDEO_DECODE, VIDEO_ENHANCE, FakeGpu, at
from xedev.gpu.ports import GpuHang

DATA = FakeGpu.DATA
HERE = at(DATA)
PIPE_CONTROL = 0x7A000004
STORE = (0x10000002, *at(DATA + 64), 1)
WALKER = 0x72080000 | 38
RESOURCE_BARRIER = 0xAC000000 | 3


def is_stored(gpu: FakeGpu) -> bool:
    return gpu.memory.peek32(DATA + 64) == 1


@pytest.fixture(params=[RENDER, COMPUTE])
def gpu(request: pytest.FixtureRequest) -> FakeGpu:
    return FakeGpu(request.param)


# ---- PIPE_CONTROL ----


def test_pipe_control_stores_64_bits(gpu: FakeGpu) -> None:
    gpu.run(PIPE_CONTROL, 1 << 14 | 1 << 20, *HERE, 7, 8)
    assert gpu.data == 8 << 32 | 7


def test_pipe_control_stores_the_time(gpu: FakeGpu) -> None:
    gpu.port.ticks = 0x3_0000_0000
    gpu.run(PIPE_CONTROL, 3 << 14, *HERE, 0, 0)
    assert gpu.data == 0x3_0000_0001


def test_pipe_control_stores_the_depth_count_of_nothing(gpu: FakeGpu) -> None:
    gpu.memory.poke64(DATA, 5)
    gpu.run(PIPE_CONTROL, 2 << 14, *HERE, 7, 7)
    assert gpu.data == 0


def test_pipe_control_without_post_sync_stores_nothing(gpu: FakeGpu) -> None:
    gpu.run(PIPE_CONTROL, 1 << 20 | 1 << 24 | 1 << 18, *HERE, 7, 8)
    assert not gpu.memory.written


def test_pipe_control_of_two_dwords(gpu: FakeGpu) -> None:
    gpu.run(0x7A000000, 1 << 20, *STORE)
    assert is_stored(gpu)


def test_pipe_control_loads_a_register(gpu: FakeGpu) -> None:
    gpu.run(PIPE_CONTROL, 1 << 23, gpu.port.mmio_base + 0x608, 0, 5, 0)
    assert gpu.context.gpr[1] == 5


@pytest.mark.parametrize("flags", [1 << 24, 1 << 21])
def test_pipe_control_to_what_is_not_the_users_hangs(gpu: FakeGpu, flags: int) -> None:
    with pytest.raises(GpuHang):
        gpu.run(PIPE_CONTROL, 1 << 14 | flags, *HERE, 7, 8)
    assert not gpu.memory.written


@pytest.mark.parametrize("engine_class", [COPY, VIDEO_DECODE, VIDEO_ENHANCE])
@pytest.mark.parametrize("header", [PIPE_CONTROL, WALKER, RESOURCE_BARRIER])
def test_only_render_and_compute_have_the_pipe(engine_class: int, header: int) -> None:
    with pytest.raises(GpuHang, match="not a render or compute engine"):
        FakeGpu(engine_class).run(header, *[0] * 40)


# ---- COMPUTE_WALKER ----


def walker(
    post_sync: int, *, flags: int = 0, data: tuple[int, int] = (0, 0), length: int = 40
) -> list[int]:
    """Xe2's is of 40 dwords, Xe_HPG's of 39; the last eight are for the threads."""
    before = [WALKER - 40 + length | flags] + [0] * (length - 14)
    return [*before, post_sync, *HERE, *data, *[0xFFFF_FFFF] * 8]


def test_a_walker_stores_four_timestamps(gpu: FakeGpu) -> None:
    gpu.port.ticks = 0x1_0000_0000
    gpu.port.context_ticks = 100
    gpu.run(*walker(3), *STORE)
    times = [gpu.memory.peek64(DATA + 8 * i) for i in range(4)]
    assert times == [101, 0x1_0000_0001, 102, 0x1_0000_0002]
    assert is_stored(gpu)


@pytest.mark.parametrize("length", [39, 40])
def test_a_walker_stores_data(gpu: FakeGpu, length: int) -> None:
    gpu.run(*walker(1, data=(7, 8), length=length))
    assert gpu.data == 8 << 32 | 7


def test_a_walker_without_post_sync_stores_nothing(gpu: FakeGpu) -> None:
    gpu.run(*walker(0, data=(7, 8)))
    assert not gpu.memory.written


@pytest.mark.parametrize("result", [0, 1])
def test_a_predicated_walker(gpu: FakeGpu, result: int) -> None:
    gpu.context.registers[0x418] = result
    gpu.run(*walker(1, flags=1 << 8, data=(7, 0)))
    assert gpu.data == 7 * result


def test_a_walker_that_is_too_short_hangs(gpu: FakeGpu) -> None:
    with pytest.raises(GpuHang, match="COMPUTE_WALKER of 20 dwords"):
        gpu.run(0x72080000 | 18, *[0] * 19)


# ---- everything else ----

BBE = 0x05000000
"""In place of operands: a batch that skips too little ends there."""


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (0x61010000 | 20, 22),  # STATE_BASE_ADDRESS
        (0x69040000, 1),  # PIPELINE_SELECT
        (0x680B0001, 1),  # 3DSTATE_VF_STATISTICS
        (0x78080000 | 35, 37),
        (0x79170000 | 0x101, 0x103),  # 3DSTATE_SO_DECL_LIST
        (0x7B000000 | 5, 7),  # 3DPRIMITIVE
        (0x80000000 | 3, 5),  # GFX_STATE
        (RESOURCE_BARRIER, 5),
        (0xAD000000 | 3, 5),  # with predicate
    ],
)
def test_other_commands_are_skipped_by_their_length(gpu: FakeGpu, header: int, length: int) -> None:
    gpu.run(header, *[BBE] * (length - 1), *STORE)
    assert is_stored(gpu)


@pytest.mark.parametrize("engine_class", [VIDEO_DECODE, VIDEO_ENHANCE])
def test_lengths_of_media_commands_have_more_bits(engine_class: int) -> None:
    gpu = FakeGpu(engine_class)
    gpu.run(0x70000000 | 0x201, *[BBE] * 0x202, *STORE)
    assert is_stored(gpu)


@pytest.mark.parametrize("engine_class", [RENDER, VIDEO_DECODE, VIDEO_ENHANCE, COMPUTE])
def test_only_copy_engines_have_the_blitter(engine_class: int) -> None:
    gpu = FakeGpu(engine_class)
    with pytest.raises(GpuHang, match="not a copy engine"):
        gpu.run(0x56C00005, 3, 0, 0, *HERE, 0xAB << 24)


def test_a_copy_engine_has_the_blitter() -> None:
    gpu = FakeGpu(COPY)
    gpu.run(0x56C00005, 3, 0, 0, *HERE, 0xAB << 24, *STORE)
    assert gpu.data == 0xABABABAB and is_stored(gpu)


@pytest.mark.parametrize(
    ("engine_class", "header", "reason"),
    [
        (RENDER, 0x01800000, "unknown MI command"),
        (RENDER, 0x1F800000, "unknown MI command"),
        (COPY, 0x4FC00000, "unknown blitter command"),
        (RENDER, 0x4FC00000, "unknown blitter command"),
        (RENDER, 0x20000000, "unknown command client"),
        (RENDER, 0xA0000000, "unknown command client"),
        (RENDER, 0xA8000000, "unknown command client"),
        (RENDER, 0xFFFFFFFF, "unknown command client"),
    ],
)
def test_unknown_commands_hang(engine_class: int, header: int, reason: str) -> None:
    with pytest.raises(GpuHang, match=f"{reason}: header {header:#010x}"):
        FakeGpu(engine_class).run(header)
