"""Random lives of timelines against a model (drm-core.md 3.2 to 3.5)."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.syncobj_model import Node, SyncobjModel
from uapi import drm
from xedev.client import Device
from xedev.client.igt_syncobj import sw_sync_timeline_create_fence, sw_sync_timeline_inc
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeDevice

NAMES = ("a", "b", "c")
POINTS = range(8)
AVAILABLE = drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE
LAST_SUBMITTED = drm.DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED

names = st.sampled_from(NAMES)
points = st.sampled_from(POINTS)
actions = st.one_of(
    st.tuples(st.just("attach"), names, points),
    st.tuples(st.just("attach"), names, points),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.tuples(st.just("timeline_signal"), names, points),
    st.tuples(st.just("transfer"), names, points, names, points),
    st.tuples(st.just("share"), names, points, names, points),
    st.tuples(st.just("signal"), names),
    st.tuples(st.just("reset"), names),
)


@dataclass
class Pair:
    """The driver and the model, side by side."""

    device: Device
    model: SyncobjModel = field(default_factory=SyncobjModel)
    handles: dict[str, int] = field(default_factory=dict)
    timelines: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in NAMES:
            self.handles[name] = self.device.syncobj_create()
            self.model.current[name] = None

    def attach(self, name: str, point: int) -> None:
        """A new fence; without a point a binary one."""
        number = len(self.timelines)
        self.timelines.append(self.device.transport.open_sw_sync())
        fd = sw_sync_timeline_create_fence(self.device, self.timelines[number], 1)
        self.device.syncobj_import_sync_file(self.handles[name], fd, point)
        self.device.close_fd(fd)
        self._put(name, point, Node(frozenset({number})))

    def _put(self, name: str, point: int, node: Node) -> None:
        if point:
            parts = frozenset(fence for one in node.back() for fence in one.own)
            own = parts - self.model.done if node.stream else node.own
            self.model.add(name, point, own)
        else:
            self.model.replace(name, node)

    def finish(self, number: int) -> None:
        """A fence is signalled."""
        if number < len(self.timelines):
            sw_sync_timeline_inc(self.device, self.timelines[number], 1)
            self.model.done.add(number)

    def timeline_signal(self, name: str, point: int) -> None:
        self.device.syncobj_timeline_signal([self.handles[name]], [point])
        self.model.add(name, point, frozenset())

    def signal(self, name: str) -> None:
        self.device.syncobj_signal([self.handles[name]])
        self.model.replace(name, Node(frozenset()))

    def reset(self, name: str) -> None:
        self.device.syncobj_reset([self.handles[name]])
        self.model.replace(name, None)

    def transfer(self, src: str, src_point: int, dst: str, dst_point: int) -> None:
        error = 0
        try:
            self.device.syncobj_transfer(self.handles[dst], dst_point, self.handles[src], src_point)
        except OSError as refused:
            error = refused.errno or 0
        is_there = self.model.transfer(src, src_point, dst, dst_point)
        assert error == (0 if is_there else errno.EINVAL)

    def share(self, src: str, src_point: int, dst: str, dst_point: int) -> None:
        """Through a sync_file."""
        found = self.model.find(src, src_point)
        if found is None:
            return
        fd = self.device.syncobj_export_sync_file(self.handles[src], src_point)
        self.device.syncobj_import_sync_file(self.handles[dst], fd, dst_point)
        self.device.close_fd(fd)
        self._put(dst, dst_point, found)

    def check(self) -> None:
        """Both say the same of everything."""
        for name, handle in self.handles.items():
            assert self.device.syncobj_query([handle]) == [self.model.query(name)], name
            last = self.device.syncobj_query([handle], LAST_SUBMITTED)
            assert last == [self.model.last_submitted(name)], name
            for point in (*POINTS, max(POINTS) + 1):
                assert self._wait(handle, point, 0) == self._expected(name, point), (name, point)
                found = self.model.find(name, point)
                available = errno.ETIME if found is None else 0
                assert self._wait(handle, point, AVAILABLE) == available, (name, point)

    def _wait(self, handle: int, point: int, flags: int) -> int:
        try:
            self.device.syncobj_timeline_wait([handle], [point], 0, flags)
        except OSError as error:
            return error.errno or 0
        return 0

    def _expected(self, name: str, point: int) -> int:
        found = self.model.find(name, point)
        if found is None:
            return errno.EINVAL
        return 0 if self.model.is_signalled(found) else errno.ETIME


@settings(max_examples=150)
@given(st.lists(actions, max_size=24), st.booleans())
def test_the_driver_and_the_model_agree(
    life: list[tuple[str, *tuple[str | int, ...]]], looks_often: bool
) -> None:
    """Looking unlinks what is done; nobody may see a difference whether somebody looked."""
    pair = Pair(Device(LocalTransport(XeDevice())))
    for action, *arguments in life:
        getattr(pair, action)(*arguments)
        if looks_often:
            pair.check()
    pair.check()
    for number in range(len(pair.timelines)):
        pair.finish(number)
        pair.check()
    for timeline in pair.timelines:
        pair.device.close_fd(timeline)
    pair.device.close()
