"""The order of regions: the own one, then as the writer was told, then by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.shm.world import World, port, service

REGIONS = ("syd", "yyz", "ams", "fra")


def fill(world: World, app: str = "a", balance: str = "least") -> None:
    world.app(app, service(port(80, "http"), balance=balance), hosts=[f"{app}.test"])
    for region in REGIONS:
        world.machines(app, 2, region, prefix=f"{app}-{region}-")


def order(world: World, app: str = "a") -> list[str]:
    """The regions of an app's lists as published; each list holds the machines of its region."""
    names = {machine["slot"]: machine for machine in world.reader().machines()}
    [regions] = (one["services"][0]["regions"] for one in world.reader().apps() if one["name"] == app)
    assert all({names[slot]["region"] for slot in slots} == {region} and len(slots) == 2 for region, slots in regions)
    return [region for region, _ in regions]


def test_without_an_order_by_name(world: World) -> None:
    fill(world)
    world.commit()
    assert order(world) == ["yyz", "ams", "fra", "syd"]


@pytest.mark.parametrize(("given", "expected"), [
    (["syd", "fra", "ams"], ["yyz", "syd", "fra", "ams"]),
    (["syd", "ams", "yyz"], ["yyz", "syd", "ams", "fra"]),
    (["fra"], ["yyz", "fra", "ams", "syd"]),
    (["nrt", "syd", "gru", "syd", "ams"], ["yyz", "syd", "ams", "fra"]),
])  # fmt: skip
@pytest.mark.parametrize("first", ["order", "records"])
def test_the_own_region_then_the_order_then_names(
    world: World, given: list[str], expected: list[str], first: str
) -> None:
    if first == "records":
        fill(world)
        world.commit()
    world.writer.set_region_order(given)
    fill(world)
    world.commit()
    assert order(world) == expected


def test_a_changed_order_shows_for_every_app_at_the_next_commit(world: World) -> None:
    for app in ("a", "b"):
        fill(world, app)
    world.commit()
    world.writer.set_region_order(["syd"])
    assert order(world) == ["yyz", "ams", "fra", "syd"]
    world.commit()
    assert order(world, "a") == order(world, "b") == ["yyz", "syd", "ams", "fra"]
    world.writer.set_region_order([])
    world.commit()
    assert order(world, "a") == order(world, "b") == ["yyz", "ams", "fra", "syd"]


def test_the_same_order_again_changes_nothing(world: World) -> None:
    fill(world)
    world.writer.set_region_order(["syd"])
    world.commit()
    world.worker(3).enter()  # what would be replaced now would have to wait
    world.writer.set_region_order(["syd"])
    world.commit()
    assert world.writer.usage()["waiting"] == 0


def test_an_order_that_changes_the_lists_of_no_app_replaces_nothing(world: World) -> None:
    fill(world)
    world.commit()
    world.worker(3).enter()
    world.writer.set_region_order(["yyz", "ams", "nrt"])
    world.commit()
    assert world.writer.usage()["waiting"] == 0


def test_regions_that_come_later_take_their_place(world: World) -> None:
    world.writer.set_region_order(["syd", "ams"])
    world.app("a", hosts=["a.test"])
    for region in ("fra", "ams", "yyz", "syd"):
        world.machines("a", 2, region, prefix=region)
        world.commit()
    assert order(world) == ["yyz", "syd", "ams", "fra"]
    for i in range(2):
        world.machine(f"yyz{i}", "a", health="critical")
    world.commit()
    assert order(world) == ["syd", "ams", "fra"]


def test_the_ring_is_that_of_the_nearest_region(world: World) -> None:
    world.app("a", service(port(80, "http"), balance="hash"), hosts=["a.test"])
    for region in ("ams", "syd"):
        world.machines("a", 3, region, prefix=region)
    world.commit()
    worker = world.worker()
    slots = {machine["id"]: machine["slot"] for machine in world.reader().machines()}
    for given, nearest in (([], "ams"), (["syd"], "syd"), (["ams", "syd"], "ams")):
        world.writer.set_region_order(given)
        world.commit()
        worker.enter()
        assert set(worker.ring("a.test")) == {slots[f"{nearest}{i}"] for i in range(3)}
        key = worker.choose("a.test", key=b"k")
        assert key[2] == 0
        worker.release("inflight", key[1])


def test_it_holds_over_a_reset(world: World) -> None:
    world.writer.set_region_order(["syd", "fra"])
    world.writer.reset()
    fill(world)
    world.commit()
    assert order(world) == ["yyz", "syd", "fra", "ams"]


def test_long_lists_move_with_their_region(make_world: Callable[..., World]) -> None:
    """Beyond 64 machines a list is a block of its own that the app's block names."""
    world = make_world(machines=300)
    world.app("a", hosts=["a.test"])
    for region in ("ams", "fra", "syd"):
        world.machines("a", 90, region, prefix=region)
    world.commit()
    worker = world.worker()
    worker.enter()
    ams, fra, syd = worker.candidates("a.test")
    for given, expected in ((["syd"], [syd, ams, fra]), (["syd", "fra"], [syd, fra, ams]), ([], [ams, fra, syd])):
        world.writer.set_region_order(given)
        world.commit()
        worker.enter()
        assert worker.candidates("a.test") == expected
    world.machine("syd0", "a", "syd", health="critical")
    world.commit()
    worker.enter()
    assert worker.candidates("a.test") == [ams, fra, syd[1:]]


def test_a_name_that_no_machine_could_have_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="region"):
        world.writer.set_region_order(["x" * 16])
    world.writer.set_region_order(["syd"])
    with pytest.raises(ValueError, match="region"):
        world.writer.set_region_order(["ams", "ü"])
    fill(world)
    world.commit()
    assert order(world) == ["yyz", "syd", "ams", "fra"]
