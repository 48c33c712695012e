//! The sequence numbers of one flow as they arrive: what is missing, late, or there twice.

const std = @import("std");

pub const Counts = struct {
    lost: *u64,
    reordered: *u64,
    duplicated: *u64,
};

/// Numbers from `from` up to `to` that did not come.
const Gap = struct { from: u64, to: u64 };

const gaps_max = 16;

/// All zero is a flow of which nothing was seen.
pub const Track = struct {
    /// The number that comes next when nothing goes wrong.
    next: u64,
    /// Of the last frame: bytes 16 to 31, with its length, stream and addresses, and how long it was.
    /// What has the same needs no second look.
    network: [2]u64,
    frame_bytes: u32,
    known: bool,
    stream: u16,
    /// Of a frame that comes in pieces: the number of the next one.
    pieces: u16,
    /// The gap that is given up for the next new one.
    cursor: u32,
    /// Gaps below this number may have been given up.
    forgotten: u64,
    gaps: [gaps_max]Gap,

    /// Follows a stream from its first frame that arrived.
    pub fn begin(track: *Track, stream: u16, number: u64) void {
        track.* = std.mem.zeroes(Track);
        track.known = true;
        track.stream = stream;
        track.next = number + 1;
    }

    pub fn see(track: *Track, number: u64, counts: Counts) void {
        if (number < track.next) return track.seeLate(number, counts);
        if (number > track.next) {
            counts.lost.* += number - track.next;
            track.remember(.{ .from = track.next, .to = number });
        }
        track.next = number + 1;
    }

    /// Late, or a second time. Where the gap it may be from was given up, nobody can tell: then it
    /// stays counted as lost, and is late.
    fn seeLate(track: *Track, number: u64, counts: Counts) void {
        for (&track.gaps) |*gap| {
            if (number < gap.from or number >= gap.to) continue;
            counts.lost.* -= 1;
            counts.reordered.* += 1;
            const rest: Gap = .{ .from = number + 1, .to = gap.to };
            gap.to = number;
            if (gap.from == gap.to) gap.* = rest else if (rest.from < rest.to) track.remember(rest);
            return;
        }
        const counter = if (number < track.forgotten) counts.reordered else counts.duplicated;
        counter.* += 1;
    }

    fn remember(track: *Track, new: Gap) void {
        const gap = &track.gaps[track.cursor % gaps_max];
        if (gap.from < gap.to) track.forgotten = @max(track.forgotten, gap.to);
        gap.* = new;
        track.cursor +%= 1;
    }
};

const Tally = struct {
    lost: u64 = 0,
    reordered: u64 = 0,
    duplicated: u64 = 0,

    fn of(numbers: []const u64) Tally {
        var tally: Tally = .{};
        var track = std.mem.zeroes(Track);
        track.begin(0, numbers[0]);
        const counts: Counts = .{ .lost = &tally.lost, .reordered = &tally.reordered, .duplicated = &tally.duplicated };
        for (numbers[1..]) |number| track.see(number, counts);
        return tally;
    }
};

test "what is missing, late and there twice is told apart" {
    try std.testing.expectEqual(Tally{}, Tally.of(&.{ 0, 1, 2, 3 }));
    try std.testing.expectEqual(Tally{}, Tally.of(&.{ 1000, 1001 }));
    try std.testing.expectEqual(Tally{ .lost = 2 }, Tally.of(&.{ 0, 3, 4 }));
    try std.testing.expectEqual(Tally{ .reordered = 1 }, Tally.of(&.{ 0, 2, 1, 3 }));
    try std.testing.expectEqual(Tally{ .reordered = 3 }, Tally.of(&.{ 0, 4, 2, 1, 3, 5 }));
    try std.testing.expectEqual(Tally{ .duplicated = 1 }, Tally.of(&.{ 0, 1, 1, 2 }));
    try std.testing.expectEqual(Tally{ .duplicated = 1, .reordered = 1, .lost = 1 }, Tally.of(&.{ 0, 3, 1, 1, 4 }));
}

test "a gap too old to be known is not taken for a duplicate" {
    var numbers: [2 * gaps_max + 3]u64 = undefined;
    for (&numbers, 0..) |*number, i| number.* = 2 * i;
    numbers[numbers.len - 1] = 1;
    const tally: Tally = .of(&numbers);
    try std.testing.expectEqual(Tally{ .lost = 2 * gaps_max + 1, .reordered = 1 }, tally);
}
