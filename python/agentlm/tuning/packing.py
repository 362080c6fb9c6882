"""Best-fit-decreasing packing into a given number of packs. Refuses to know tokens, sources and ranks."""

from collections.abc import Iterable, Sequence


def best_fit(
    conversations: Iterable[int], lengths: Sequence[int], packs: int, capacity: int
) -> tuple[list[list[int]], list[int]]:
    """Packs of conversations whose lengths add up to `capacity` at most, and those that found no room.

    Each goes, in the order given, where it leaves the least room; of equal packs into the one that came to have that
    room last. Decreasing lengths are the caller's business. Packs that nothing went into are left out.
    """
    filled: list[list[int]] = [[] for _ in range(packs)]
    # by_room[r] are the packs with room r; bit r of `rooms` says whether there are any.
    by_room: dict[int, list[int]] = {capacity: list(range(packs - 1, -1, -1))} if packs else {}
    rooms = 1 << capacity if packs else 0
    left: list[int] = []
    for conversation in conversations:
        length = lengths[conversation]
        enough = rooms >> length
        if not enough:
            left.append(conversation)
            continue
        room = length + (enough & -enough).bit_length() - 1
        pack = by_room[room].pop()
        if not by_room[room]:
            rooms &= ~(1 << room)
        filled[pack].append(conversation)
        by_room.setdefault(room - length, []).append(pack)
        rooms |= 1 << (room - length)
    return [pack for pack in filled if pack], left
