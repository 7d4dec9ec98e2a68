"""Buffers and slabs behave like the simple things they stand for, whatever the order of operations."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups._testing_net import Buffers, Table

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3), st.binary(max_size=9000)),
        st.tuples(st.just("consume"), st.integers(0, 3), st.integers(0, 12000)),
    ),
    max_size=60,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(OPERATIONS)
def test_buffers_behave_like_byte_strings(operations):
    buffers = Buffers(1 << 16)
    model = [b""] * 4
    for name, k, argument in operations:
        if name == "append":
            assert buffers.append(k, argument)
            model[k] += argument
        else:
            n = min(argument, len(model[k]))
            buffers.consume(k, n)
            model[k] = model[k][n:]
        assert [buffers.content(i) for i in range(4)] == model


def test_an_emptied_buffer_holds_no_memory():
    buffers = Buffers(1 << 20)
    assert buffers.append(0, b"x" * 5000)
    assert buffers.used == 8192
    buffers.consume(0, 5000)
    assert (buffers.used, buffers.held) == (0, 8192)


def test_free_lists_keep_no_more_than_allowed():
    buffers = Buffers(4096)
    for k in range(8):
        assert buffers.append(k, b"x" * 3000)
    for k in range(8):
        buffers.consume(k, 3000)
    assert buffers.held == 4096


def test_a_buffer_larger_than_the_largest_class_is_refused():
    buffers = Buffers(0)
    assert not buffers.append(0, bytes(33 << 20))
    assert buffers.used == 0


def test_slab_gives_the_youngest_free_index_again():
    table = Table()
    first = [table.take() for _ in range(600)]
    assert first == list(range(600))
    for index in (5, 300, 599):
        table.give(index)
    assert [table.take() for _ in range(4)] == [599, 300, 5, 600]
    assert table.used == 601
