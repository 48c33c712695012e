//! Front ends of every kind at the pump: messages whole, in pieces and several at once, with fds in
//! their places and out of them, bytes that are no messages, peers that stop, leave, or never read.
//! What was sent whole arrives as it was sent, what is no message ends its connection with the right
//! reason, nobody waits for anybody, and no fd stays behind.

const std = @import("std");
const abi = @import("abi.zig");
const connection_file = @import("connection.zig");
const openFds = @import("fd_census.zig").openFds;
const Pump = @import("pump.zig").Pump;
const fuzz_run = @import("fuzz_run.zig");
const Random = fuzz_run.Random;
const Run = fuzz_run.Run;
const sys = @import("sys.zig");

const allocator = std.heap.c_allocator;

const header_bytes = connection_file.header_bytes;
const links_max = 8;
/// Deadlines are for unit tests: here nothing may depend on the time.
const stall_limit_ms = 600_000;

/// What a peer has written, and what must come of it.
const Link = struct {
    token: u32,
    peer: i32,
    /// From the first byte that has not been reported.
    bytes: std.ArrayList(u8) = .empty,
    /// Fds that came with the byte at a place in `bytes`.
    gifts: std.ArrayList(Gift) = .empty,
    resumed: bool = true,
    peer_closed: bool = false,
    /// A message could not be sent: the end may come before the rest is read.
    send_failed: bool = false,
    /// Messages that the pump took.
    answers: u32 = 0,

    const Gift = struct { at: usize, count: u32 };

    const Next = union(enum) { message: usize, incomplete, end: i32 };

    fn field(link: *const Link, index: usize) u32 {
        return std.mem.readInt(u32, link.bytes.items[4 * index ..][0..4], .native);
    }

    fn giftAt(link: *const Link, first: usize, end: usize) u32 {
        var sum: u32 = 0;
        for (link.gifts.items) |gift| if (gift.at >= first and gift.at < end) {
            sum += gift.count;
        };
        return sum;
    }

    /// What the pump must report next, if it reads.
    fn next(link: *const Link) Next {
        const have = link.bytes.items.len;
        if (have > 0 and link.giftAt(0, 1) > abi.message_fds_max) return .{ .end = reasonOf(.too_many_fds) };
        if (have >= header_bytes) {
            if (link.field(1) & 3 != 1 or link.field(2) > abi.message_payload_max) {
                return .{ .end = reasonOf(.bad_header) };
            }
            const wanted = header_bytes + link.field(2);
            if (have >= wanted) return .{ .message = wanted };
        }
        if (!link.peer_closed) return .incomplete;
        return .{ .end = reasonOf(if (have > 0) .cut_short else .closed) };
    }

    fn drop(link: *Link, count: usize) void {
        link.bytes.replaceRangeAssumeCapacity(0, count, &.{});
        var kept: usize = 0;
        for (link.gifts.items) |gift| {
            if (gift.at < count) continue;
            link.gifts.items[kept] = .{ .at = gift.at - count, .count = gift.count };
            kept += 1;
        }
        link.gifts.items.len = kept;
    }

    fn free(link: *Link) void {
        if (!link.peer_closed) sys.close(link.peer);
        link.bytes.deinit(allocator);
        link.gifts.deinit(allocator);
    }
};

fn reasonOf(reason: abi.HangupReason) i32 {
    return @backingInt(reason);
}

const Messages = struct {
    run: *Run,
    pump: *Pump,
    links: std.ArrayList(Link),
    events: [4]abi.PumpEvent,
    /// Fds to send along.
    presents: [3]i32,
    fds_before: u32,
    /// What a peer is about to write.
    plan: std.ArrayList(u8),

    fn init(self: *Messages, run: *Run) void {
        self.run = run;
        self.pump = Pump.create(stall_limit_ms) catch run.fail("no pump", .{});
        self.links = .empty;
        self.plan = .empty;
        const file = sys.memoryFile("fuzz", 4096) catch run.fail("no memory file", .{});
        const pair = sys.socketPair() catch run.fail("no sockets", .{});
        self.presents = .{ sys.eventfd() catch run.fail("no eventfd", .{}), file, pair[0] };
        self.fds_before = openFds();
    }

    fn step(self: *Messages) void {
        const random = &self.run.random;
        if (self.links.items.len == 0 or (self.links.items.len < links_max and random.once(8))) self.connect();
        const index = random.below(self.links.items.len);
        const link = &self.links.items[index];
        switch (random.below(32)) {
            0 => self.leave(link),
            1 => self.closeOurs(index),
            2...7 => self.answer(link),
            8...10 => self.readAnswers(link),
            11...15 => self.resumeReading(link),
            else => self.write(link),
        }
        self.settle();
        if (random.once(4096)) self.closeAll();
    }

    fn connect(self: *Messages) void {
        const pair = sys.socketPair() catch self.run.fail("no sockets", .{});
        const token = self.pump.adopt(pair[0]) catch |reason| self.run.fail("not adopted: {t}", .{reason});
        self.pump.resumeReading(token) catch self.run.fail("not resumed", .{});
        self.links.append(allocator, .{ .token = token, .peer = pair[1] }) catch unreachable;
    }

    /// The next bytes of a peer: usually some message, in pieces or with more behind it.
    fn write(self: *Messages, first: *Link) void {
        var link = first;
        if (link.peer_closed) return;
        const random = &self.run.random;
        self.plan.clearRetainingCapacity();
        for (0..if (random.once(4)) random.between(1, 5) else 1) |_| self.planMessage();
        var left: []const u8 = self.plan.items;
        while (left.len > 0) {
            const piece = if (random.once(2)) left else left[0 .. 1 + random.below(@min(left.len, 40))];
            if (!self.writePiece(link, piece)) return;
            left = left[piece.len..];
            if (random.once(3)) link = self.settleOne(link) orelse return;
            // The rest never comes, or what follows is in the middle of it.
            if (random.once(16)) return;
        }
    }

    fn planMessage(self: *Messages) void {
        const random = &self.run.random;
        const sizes = [_]u32{ 0, 1, 8, 40, 264, abi.message_payload_max };
        var header = [3]u32{ @truncate(random.next() & 63), 1, random.pick(u32, &sizes) };
        if (random.once(4)) header[1] |= @as(u32, @truncate(random.next())) & ~@as(u32, 3);
        if (random.once(8)) header[2] = random.below(abi.message_payload_max + 1);
        if (random.once(64)) header[1] = @truncate(random.next());
        if (random.once(64)) header[2] = @truncate(random.next());
        if (random.once(64)) header[2] = abi.message_payload_max + 1;
        self.plan.appendSlice(allocator, std.mem.asBytes(&header)) catch unreachable;
        for (0..@min(header[2], 2000)) |_| self.plan.append(allocator, @truncate(random.next())) catch unreachable;
        if (random.once(64)) self.plan.append(allocator, @truncate(random.next())) catch unreachable;
    }

    /// False: the socket is full, or nobody is there.
    fn writePiece(self: *Messages, link: *Link, piece: []const u8) bool {
        const random = &self.run.random;
        var fds: [40]i32 = undefined;
        var count: u32 = if (random.once(4)) random.below(abi.message_fds_max + 1) else 0;
        if (random.once(128)) count = random.below(fds.len);
        for (fds[0..count]) |*fd| fd.* = random.pick(i32, &self.presents);
        const sent = sys.send(link.peer, piece, fds[0..count]) catch return false;
        if (count > 0) {
            link.gifts.append(allocator, .{ .at = link.bytes.items.len, .count = count }) catch unreachable;
        }
        link.bytes.appendSlice(allocator, piece[0..sent]) catch unreachable;
        return sent == piece.len;
    }

    fn leave(self: *Messages, link: *Link) void {
        _ = self;
        if (link.peer_closed) return;
        sys.close(link.peer);
        link.peer_closed = true;
    }

    fn closeOurs(self: *Messages, index: usize) void {
        self.pump.close(self.links.items[index].token) catch self.run.fail("not closed", .{});
        self.forget(index);
    }

    fn forget(self: *Messages, index: usize) void {
        var link = self.links.swapRemove(index);
        link.free();
    }

    fn resumeReading(self: *Messages, link: *Link) void {
        self.pump.resumeReading(link.token) catch |reason| self.run.fail("not resumed: {t}", .{reason});
        link.resumed = true;
    }

    /// Sends to a peer that may read it some day.
    fn answer(self: *Messages, link: *Link) void {
        const random = &self.run.random;
        var payload: [abi.message_payload_max]u8 = undefined;
        const size = if (random.once(2)) 8 else random.below(payload.len + 1);
        @memset(payload[0..size], @truncate(link.answers));
        const fds = self.presents[0..random.below(self.presents.len + 1)];
        for (0..if (random.once(16)) 40 else 1) |_| {
            _ = self.pump.send(link.token, .{
                .request = link.answers,
                .flags = 5,
                .payload = payload[0..size],
                .fds = fds,
            }) catch |reason| {
                self.run.expect(reason == error.Closed, "not sent: {t}", .{reason});
                link.send_failed = true;
                return;
            };
            link.answers += 1;
        }
    }

    fn readAnswers(self: *Messages, link: *Link) void {
        if (link.peer_closed) return;
        var bytes: [4096]u8 = undefined;
        for (0..self.run.random.below(64)) |_| {
            _ = sys.receive(link.peer, &bytes) catch return;
        }
    }

    /// The pump reports everything that is there, and then nothing more.
    fn settle(self: *Messages) void {
        while (true) {
            const count = self.pump.wait(&self.events, 0) catch |reason| self.run.fail("no wait: {t}", .{reason});
            for (self.events[0..count]) |*event| self.handle(event);
            if (count == 0) break;
        }
        for (self.links.items) |*link| {
            const due = link.send_failed or link.next() != .incomplete;
            self.run.expect(!due or !link.resumed, "a connection is not served", .{});
        }
    }

    /// A link, wherever it is afterwards, unless it is gone.
    fn settleOne(self: *Messages, link: *const Link) ?*Link {
        const token = link.token;
        self.settle();
        for (self.links.items) |*each| if (each.token == token) return each;
        return null;
    }

    fn handle(self: *Messages, event: *abi.PumpEvent) void {
        const index = for (self.links.items, 0..) |*link, i| {
            if (link.token == event.token) break i;
        } else self.run.fail("an event of nobody: {t}", .{event.kind});
        const link = &self.links.items[index];
        switch (event.kind) {
            .message => self.handleMessage(link, event),
            .hangup => {
                const next = link.next();
                var right = link.resumed and next == .end and next.end == event.value;
                const crowded = link.giftAt(0, header_bytes) > abi.message_fds_max;
                right = right or (crowded and event.value == reasonOf(.too_many_fds));
                const unread = link.send_failed and event.value == reasonOf(.unread);
                self.run.expect(right or unread, "hung up for {d}", .{event.value});
                self.forget(index);
            },
            else => self.run.fail("an event of the wrong kind: {t}", .{event.kind}),
        }
    }

    fn handleMessage(self: *Messages, link: *Link, event: *abi.PumpEvent) void {
        const run = self.run;
        for (event.fds[0..event.fd_count]) |fd| sys.close(fd);
        run.expect(link.resumed, "a message before it was asked for", .{});
        const next = link.next();
        run.expect(next == .message, "a message that was not sent", .{});
        const bytes = link.bytes.items[0..next.message];
        run.expectEqual(link.field(0), event.request, "request");
        run.expectEqual(link.field(1), event.flags, "flags");
        run.expectEqual(bytes.len - header_bytes, event.size_bytes, "size");
        const payload = event.payload[0..event.size_bytes];
        run.expect(std.mem.eql(u8, bytes[header_bytes..], payload), "payload", .{});
        // Those within the header come along if it is read in one go.
        const least = link.giftAt(0, 1);
        const most = least + link.giftAt(1, header_bytes);
        run.expect(event.fd_count >= least and event.fd_count <= most, "{d} fds, not {d}", .{ event.fd_count, least });
        link.drop(next.message);
        link.resumed = false;
        if (run.random.once(2)) self.resumeReading(link);
    }

    fn closeAll(self: *Messages) void {
        while (self.links.items.len > 0) self.closeOurs(self.links.items.len - 1);
        self.run.expectEqual(self.fds_before, openFds(), "fds held");
    }
};

pub fn play(run: *Run) void {
    const self = allocator.create(Messages) catch run.fail("no memory", .{});
    self.init(run);
    while (run.more()) self.step();
    self.closeAll();
    self.pump.destroy() catch run.fail("the pump is not idle", .{});
}
