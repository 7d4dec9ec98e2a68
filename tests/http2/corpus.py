"""The HPACK story corpus: every story decoded, whole and re-encoded by us.

    python -m tests.http2.corpus DIR        DIR holds hpack-test-case/*/story_*.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hpack

from flyproxy._speedups import _testing_hpack as ours

DEFAULT_TABLE = 4096


def fields_of(case: dict[str, list[dict[str, str]]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for field in case["headers"] for name, value in field.items()]


def run_story(path: Path) -> int:
    """Number of its blocks; AssertionError names the one that goes wrong."""
    decoder, encoder, oracle = ours.Decoder(65535), ours.Encoder(DEFAULT_TABLE, huffman=True), hpack.Decoder(1 << 20)
    cases = json.loads(path.read_text())["cases"]
    for number, case in enumerate(cases):
        where, fields = f"{path}: block {number}", fields_of(case)
        found = decoder.decode(bytes.fromhex(case["wire"]))
        assert isinstance(found, list), f"{where}: {found}"
        assert [field[:2] for field in found] == fields, where
        block = encoder.encode([(name, value, "index") for name, value in fields])
        assert [(bytes(n), bytes(v)) for n, v in oracle.decode(block, raw=True)] == fields, f"{where}: encoded"
    return len(cases)


def main(folder: Path) -> int:
    stories = sorted(folder.glob("hpack-test-case/*/story_*.json"))
    if not stories:
        print(f"{folder}: no hpack-test-case/*/story_*.json", file=sys.stderr)
        return 2
    blocks = sum(run_story(story) for story in stories)
    print(f"hpack: {len(stories)} stories, {blocks} blocks decoded, encoded and decoded again")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
