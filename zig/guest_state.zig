//! What a simulated guest knows beside its memory, as the state of CPUs and drivers that travels with a migration:
//! where its rings are, what it sent, what it waits for.
//!
//! For two processes of one build: whether bytes are of the same kind of guest is checked, and not what they say.

const std = @import("std");
const abi = @import("abi.zig");
const guest_file = @import("guest.zig");
const Guest = guest_file.Guest;
const Inspector = @import("guest_inspector.zig").Inspector;

const Error = guest_file.Error;

const magic: u64 = 0x7473_6575_6773_6876;

/// In front of a state.
const Header = extern struct {
    magic: u64,
    /// All bytes, these included.
    bytes: u64,
    config: abi.GuestConfig,
};

/// Bytes that go one way or the other: one description of a guest is enough for both.
const Stream = struct {
    bytes: []u8,
    at: usize = 0,
    loads: bool,

    fn raw(stream: *Stream, part: []u8) Error!void {
        if (stream.bytes.len - stream.at < part.len) return error.InvalidArgument;
        const place = stream.bytes[stream.at..][0..part.len];
        if (stream.loads) @memcpy(part, place) else @memcpy(place, part);
        stream.at += part.len;
    }

    /// All that a value holds: slices by their items, which are as many on both sides. What points into a process
    /// stays there.
    fn value(stream: *Stream, comptime T: type, target: *T) Error!void {
        switch (@typeInfo(T)) {
            .pointer => |info| if (info.size == .slice) for (target.*) |*item| try stream.value(info.child, item),
            .@"struct" => |info| inline for (info.field_names, info.field_types) |name, Field| {
                if (comptime !stays(name)) try stream.value(Field, &@field(target, name));
            },
            else => try stream.raw(std.mem.asBytes(target)),
        }
    }

    /// Guest memory, which travels by itself, and room to work in.
    fn stays(comptime field: []const u8) bool {
        return std.mem.eql(u8, field, "room") or std.mem.eql(u8, field, "scratch");
    }

    fn guestState(stream: *Stream, guest: *Guest) Error!void {
        try stream.value(abi.GuestStats, &guest.stats);
        try stream.value(@TypeOf(guest.sequencer), &guest.sequencer);
        try stream.inspector(&guest.inspector);
        switch (guest.lanes) {
            inline else => |lanes| for (lanes) |*lane| try stream.value(@TypeOf(lane.*), lane),
        }
    }

    /// Of the flows that could be followed, those that are.
    fn inspector(stream: *Stream, target: *Inspector) Error!void {
        try stream.value(u32, &target.source_count);
        if (target.source_count > target.sources.len) return error.InvalidArgument;
        for (target.sources[0..target.source_count]) |*source| {
            try stream.value(u64, &source.mac);
            for (&source.flows) |*track| {
                try stream.value(bool, &track.known);
                if (track.known) try stream.raw(std.mem.asBytes(track));
            }
        }
    }
};

/// Writes the state of a guest that does not run; returns how many bytes. No room: an invalid argument.
pub fn save(guest: *Guest, bytes: []u8) Error!usize {
    if (guest.isBusy()) return error.AlreadyStarted;
    var stream: Stream = .{ .bytes = bytes, .loads = false };
    var header: Header = .{ .magic = magic, .bytes = 0, .config = guest.config };
    try stream.raw(std.mem.asBytes(&header));
    try stream.guestState(guest);
    header.bytes = stream.at;
    @memcpy(bytes[0..@sizeOf(Header)], std.mem.asBytes(&header));
    return stream.at;
}

/// Makes a guest that does not run go on where another was saved. What is in its memory is left alone.
pub fn load(guest: *Guest, bytes: []u8) Error!void {
    if (guest.isBusy()) return error.AlreadyStarted;
    var stream: Stream = .{ .bytes = bytes, .loads = true };
    var header: Header = undefined;
    try stream.raw(std.mem.asBytes(&header));
    if (header.magic != magic or header.bytes != bytes.len) return error.InvalidArgument;
    if (!std.meta.eql(header.config, guest.config)) return error.InvalidArgument;
    try stream.guestState(guest);
}

test "what is no state of such a guest is refused" {
    var config = std.mem.zeroes(abi.GuestConfig);
    config.features = 1 << 32;
    config.queue_pairs = 1;
    config.ring_size = 16;
    config.buffer_bytes = 2048;
    config.frame_bytes_max = 1514;
    const guest: *Guest = try .open(config);
    defer guest.close();
    var bytes: [1 << 16]u8 = undefined;
    const len = try save(guest, &bytes);
    try load(guest, bytes[0..len]);
    try std.testing.expectError(error.InvalidArgument, save(guest, bytes[0 .. len - 1]));
    try std.testing.expectError(error.InvalidArgument, load(guest, bytes[0 .. len - 1]));
    try std.testing.expectError(error.InvalidArgument, load(guest, bytes[0 .. len + 1]));
    try std.testing.expectError(error.InvalidArgument, load(guest, bytes[0..9]));
    bytes[0] ^= 1;
    try std.testing.expectError(error.InvalidArgument, load(guest, bytes[0..len]));
    bytes[0] ^= 1;
    config.ring_size = 32;
    const other: *Guest = try .open(config);
    defer other.close();
    try std.testing.expectError(error.InvalidArgument, load(other, bytes[0..len]));
}
