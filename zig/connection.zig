//! One stream socket of vhost-user messages: whole messages in, whole messages out, and never a
//! call that waits. Knows the 12-byte header, not what a request means.
//!
//! The peer is hostile: it may send anything in pieces of any size, and may stop at any byte.

const std = @import("std");
const abi = @import("abi.zig");
const outbox_file = @import("outbox.zig");
const Outbox = outbox_file.Outbox;
const sys = @import("sys.zig");

/// request, flags and size of the payload, 32 bits each, in the byte order of the host.
pub const header_bytes = 12;
const flags_version_mask: u32 = 3;
const flags_version: u32 = 1;

/// What a hangup event carries: a `HangupReason` or `-1000 - errno`.
pub const Verdict = i32;

pub const SendError = error{
    /// Nobody will read it; `receive` finds out why.
    Closed,
    /// The peer does not read, and the outbox is full.
    Unread,
    OutOfMemory,
    System,
};

pub const Connection = struct {
    /// Nonblocking, and the connection's own.
    socket: i32,
    /// Bytes of the message that is on its way in.
    received: u32 = 0,
    fd_count: u32 = 0,
    fds: [abi.message_fds_max]i32 = undefined,
    bytes: [outbox_file.message_bytes_max]u8 = undefined,
    outbox: Outbox = .{},

    pub fn close(connection: *Connection) void {
        sys.shutdown(connection.socket);
        connection.forget();
    }

    /// Closes this end alone: whoever else has the socket goes on.
    pub fn forget(connection: *Connection) void {
        connection.dropFds();
        connection.outbox.clear();
        sys.close(connection.socket);
    }

    pub const Outcome = union(enum) {
        /// Nothing more to read for now; a message may have begun.
        incomplete,
        /// `take` it before the next `receive`.
        message,
        hangup: Verdict,
    };

    /// Reads on until a message is whole or the socket is empty.
    pub fn receive(connection: *Connection) Outcome {
        while (true) {
            const wanted = connection.bytesWanted() orelse return hangup(.bad_header);
            if (connection.received == wanted) return .message;
            std.debug.assert(connection.received < wanted);
            const count = connection.receivePiece(wanted) catch |reason| switch (reason) {
                error.TooManyFds => return hangup(.too_many_fds),
                error.System => switch (sys.lastErrno()) {
                    sys.errno_interrupted => continue,
                    sys.errno_again => return .incomplete,
                    sys.errno_reset => return connection.ended(),
                    else => |errno| return .{ .hangup = -1000 - @as(i32, errno) },
                },
            };
            if (count == 0) return connection.ended();
            connection.received += @intCast(count);
        }
    }

    /// Whether a message has begun and is not whole.
    pub fn isMidMessage(connection: *const Connection) bool {
        return connection.received > 0;
    }

    /// Hands the received message over, its fds included.
    pub fn take(connection: *Connection, event: *abi.PumpEvent) void {
        const size = connection.headerField(2);
        std.debug.assert(connection.received == header_bytes + size);
        event.request = connection.headerField(0);
        event.flags = connection.headerField(1);
        event.size_bytes = size;
        event.fd_count = connection.fd_count;
        @memcpy(event.fds[0..connection.fd_count], connection.fds[0..connection.fd_count]);
        @memcpy(event.payload[0..size], connection.bytes[header_bytes..][0..size]);
        connection.fd_count = 0;
        connection.received = 0;
    }

    /// Sends a message, or keeps it to be flushed; borrows the fds. After `Closed` or `Unread`, or
    /// once a part of a message was lost, the connection is of no more use for sending.
    pub fn send(connection: *Connection, bytes: []const u8, fds: []const i32) SendError!void {
        std.debug.assert(bytes.len >= header_bytes and bytes.len <= outbox_file.message_bytes_max);
        std.debug.assert(fds.len <= abi.message_fds_max);
        if (!connection.outbox.isEmpty()) return connection.keep(bytes, fds);
        const sent = try connection.transmit(bytes, fds);
        if (sent == bytes.len) return;
        if (sent == 0) return connection.keep(bytes, fds);
        connection.keep(bytes[sent..], &.{}) catch return error.Closed;
    }

    /// Sends what was kept, as far as there is room; false: there was none.
    pub fn flush(connection: *Connection) SendError!bool {
        var progress = false;
        while (!connection.outbox.isEmpty()) {
            const message = connection.outbox.front();
            const sent = try connection.transmit(message.bytes, message.fds);
            if (sent == 0) break;
            connection.outbox.advance(sent);
            progress = true;
        }
        return progress;
    }

    /// How long the message on its way in will be, as far as that is known; null: it is none.
    fn bytesWanted(connection: *const Connection) ?u32 {
        if (connection.received < header_bytes) return header_bytes;
        if (connection.headerField(1) & flags_version_mask != flags_version) return null;
        const size = connection.headerField(2);
        return if (size <= abi.message_payload_max) header_bytes + size else null;
    }

    fn headerField(connection: *const Connection, index: usize) u32 {
        return std.mem.readInt(u32, connection.bytes[index * 4 ..][0..4], .native);
    }

    /// Fds count only with the first byte: elsewhere the kernel drops them.
    fn receivePiece(connection: *Connection, wanted: u32) error{ TooManyFds, System }!usize {
        const piece = connection.bytes[connection.received..wanted];
        if (connection.received > 0) return sys.receive(connection.socket, piece);
        std.debug.assert(connection.fd_count == 0);
        const received = try sys.receiveWithFds(connection.socket, piece, &connection.fds);
        if (received.lost_fds) return error.TooManyFds;
        connection.fd_count = received.fd_count;
        return received.bytes;
    }

    fn ended(connection: *const Connection) Outcome {
        return hangup(if (connection.isMidMessage()) .cut_short else .closed);
    }

    fn hangup(reason: abi.HangupReason) Outcome {
        return .{ .hangup = @backingInt(reason) };
    }

    fn keep(connection: *Connection, bytes: []const u8, fds: []const i32) SendError!void {
        if (connection.outbox.isFull()) return error.Unread;
        try connection.outbox.push(.{ .bytes = bytes, .fds = fds });
    }

    /// 0: the socket is full.
    fn transmit(connection: *Connection, bytes: []const u8, fds: []const i32) SendError!usize {
        while (true) {
            return sys.send(connection.socket, bytes, fds) catch switch (sys.lastErrno()) {
                sys.errno_interrupted => continue,
                sys.errno_again => 0,
                sys.errno_broken_pipe, sys.errno_reset => error.Closed,
                else => error.System,
            };
        }
    }

    fn dropFds(connection: *Connection) void {
        for (connection.fds[0..connection.fd_count]) |fd| sys.close(fd);
        connection.fd_count = 0;
    }
};

const testing = std.testing;
const census = @import("fd_census.zig");

/// A connection whose other end the test holds.
const Link = struct {
    connection: Connection,
    peer: i32,
    event: abi.PumpEvent = undefined,

    fn init() !Link {
        const pair = try sys.socketPair();
        return .{ .connection = .{ .socket = pair[0] }, .peer = pair[1] };
    }

    fn deinit(link: *Link) void {
        if (link.peer >= 0) sys.close(link.peer);
        link.connection.close();
    }

    fn write(link: *Link, bytes: []const u8, fds: []const i32) !void {
        try testing.expectEqual(bytes.len, try sys.send(link.peer, bytes, fds));
    }

    fn writeHeader(link: *Link, request: u32, flags: u32, size: u32) !void {
        try link.write(std.mem.asBytes(&[3]u32{ request, flags, size }), &.{});
    }

    fn expectIncomplete(link: *Link) !void {
        try testing.expectEqual(.incomplete, std.meta.activeTag(link.connection.receive()));
    }

    fn expectMessage(link: *Link) !*abi.PumpEvent {
        try testing.expectEqual(.message, std.meta.activeTag(link.connection.receive()));
        link.connection.take(&link.event);
        return &link.event;
    }

    fn expectHangup(link: *Link, reason: abi.HangupReason) !void {
        try testing.expectEqual(@backingInt(reason), link.connection.receive().hangup);
    }
};

test "a message that comes byte by byte is whole with the last" {
    var link = try Link.init();
    defer link.deinit();
    const header = [3]u32{ 7, 0xfffffff9, 3 };
    for (std.mem.asBytes(&header) ++ "ab") |byte| {
        try link.write(&.{byte}, &.{});
        try link.expectIncomplete();
    }
    try link.write("c", &.{});
    const event = try link.expectMessage();
    try testing.expectEqual(7, event.request);
    try testing.expectEqual(0xfffffff9, event.flags);
    try testing.expectEqualStrings("abc", event.payload[0..event.size_bytes]);
    try link.expectIncomplete();
}

test "the largest payload passes, one byte more does not" {
    var link = try Link.init();
    defer link.deinit();
    const payload: [abi.message_payload_max]u8 = @splat(0x5a);
    try link.writeHeader(1, 1, payload.len);
    try link.write(&payload, &.{});
    const event = try link.expectMessage();
    try testing.expectEqualSlices(u8, &payload, event.payload[0..event.size_bytes]);
    try link.writeHeader(1, 1, payload.len + 1);
    try link.expectHangup(.bad_header);
}

test "a size that would wrap is a bad header, and so are wrong version bits" {
    const flags_and_sizes = [_][2]u32{
        .{ 1, 0xffffffff }, .{ 1, 0xfffffff4 }, .{ 0, 0 }, .{ 2, 0 }, .{ 3, 0 }, .{ 0xfffffffc, 0 },
    };
    for (flags_and_sizes) |bad| {
        var link = try Link.init();
        defer link.deinit();
        try link.writeHeader(1, bad[0], bad[1]);
        try link.expectHangup(.bad_header);
    }
}

test "the end between messages and the end inside one are told apart" {
    for ([_]usize{ 0, 1, 11, 12, 14 }) |sent| {
        var link = try Link.init();
        defer link.deinit();
        const header = [3]u32{ 1, 1, 3 };
        const bytes = std.mem.asBytes(&header) ++ "abc";
        if (sent > 0) try link.write(bytes[0..sent], &.{});
        sys.close(link.peer);
        link.peer = -1;
        try link.expectHangup(if (sent == 0) .closed else .cut_short);
    }
}

test "a peer that leaves without having read what we sent has closed, no more" {
    var link = try Link.init();
    defer link.deinit();
    try link.connection.send(std.mem.asBytes(&[3]u32{ 1, 5, 0 }), &.{});
    sys.close(link.peer);
    link.peer = -1;
    try link.expectHangup(.closed);
}

test "fds come with a message's first byte, up to eight, and none leaks" {
    const before = census.openFds();
    for ([_]usize{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60, 100 }) |count| {
        var link = try Link.init();
        defer link.deinit();
        const fds: [100]i32 = @splat(link.peer);
        const header = [3]u32{ 1, 1, 4 };
        const bytes = std.mem.asBytes(&header) ++ "abcd";
        // Those with a later piece, of the header or of the payload, are dropped.
        try link.write(bytes[0..4], fds[0..count]);
        if (count > 8) {
            try link.expectHangup(.too_many_fds);
            continue;
        }
        try link.expectIncomplete();
        try link.write(bytes[4..13], fds[0..3]);
        try link.expectIncomplete();
        try link.write(bytes[13..], fds[0..100]);
        const event = try link.expectMessage();
        try testing.expectEqual(count, event.fd_count);
        for (event.fds[0..count]) |fd| {
            try testing.expectEqual(.connection, try sys.socketKind(fd));
            const get_flags = 1;
            const close_on_exec = 1;
            try testing.expectEqual(close_on_exec, std.c.fcntl(fd, get_flags));
            sys.close(fd);
        }
    }
    try testing.expectEqual(before, census.openFds());
}

test "fds that the process may not have any more end the connection" {
    const before = census.openFds();
    {
        var link = try Link.init();
        defer link.deinit();
        try link.write("a", &.{ link.peer, link.peer, link.peer });
        const limit = try census.FdLimit.init(1);
        defer limit.deinit();
        try link.expectHangup(.too_many_fds);
    }
    try testing.expectEqual(before, census.openFds());
}

test "any division of a stream into pieces gives the same messages and fds" {
    var random: std.Random.DefaultPrng = .init(3);
    const source = random.random();
    for (0..200) |_| {
        var link = try Link.init();
        defer link.deinit();
        for (0..10) |request| {
            const size = source.uintLessThan(u32, 40);
            const fd_count = source.uintLessThan(u32, 4);
            const header = [3]u32{ @intCast(request), 1, size };
            var bytes: [52]u8 = undefined;
            @memcpy(bytes[0..12], std.mem.asBytes(&header));
            for (bytes[12..]) |*byte| byte.* = @truncate(size +% request);
            const fds: [3]i32 = @splat(link.peer);
            var sent: usize = 0;
            while (sent < 12 + size) {
                const end = source.intRangeAtMost(usize, sent + 1, 12 + size);
                try link.write(bytes[sent..end], if (sent == 0) fds[0..fd_count] else &.{});
                sent = end;
                if (sent < 12 + size and source.boolean()) try link.expectIncomplete();
            }
            const event = try link.expectMessage();
            try testing.expectEqual(request, event.request);
            try testing.expectEqualSlices(u8, bytes[12..][0..size], event.payload[0..event.size_bytes]);
            try testing.expectEqual(fd_count, event.fd_count);
            for (event.fds[0..fd_count]) |fd| sys.close(fd);
        }
    }
}
