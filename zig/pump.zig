//! Every control socket of a program behind one call: a single epoll set with listeners,
//! connections and watched fds, whose events come in batches.
//!
//! One thread at a time waits; any thread may make the other calls meanwhile. Nothing but the wait
//! itself ever blocks, whatever the peers do. Knows no request; `connection.zig` knows what a message is.

const std = @import("std");
const abi = @import("abi.zig");
const Connection = connection_file.Connection;
const connection_file = @import("connection.zig");
const Listener = @import("listener.zig").Listener;
const outbox = @import("outbox.zig");
const sys = @import("sys.zig");
const TokenTable = @import("token_table.zig").TokenTable;

pub const Error = error{
    InvalidArgument,
    /// The token was closed, or is of another kind.
    NoSuchHandle,
    /// The table of tokens is full; a path, payload or list of fds is too long.
    LimitReached,
    OutOfMemory,
    /// The fd is no Unix stream socket of the kind that is needed.
    WrongFd,
    /// Somebody listens at the path; or another thread waits.
    Busy,
    /// The peer is gone or given up: a hangup event tells more.
    Closed,
    System,
};

const never: u64 = std.math.maxInt(u64);
const accept_pause_ns = 1_000_000_000;

/// What a token stands for.
const Entry = struct {
    /// A connection that is not read until it is resumed.
    paused: bool = true,
    /// Neither read nor accepted from: another process has the socket as well, and closing ours leaves it as it is.
    held: bool = false,
    /// Why to hang up, once that was decided outside of a wait.
    verdict: ?connection_file.Verdict = null,
    /// A connection: when its message must be whole. A listener: when to accept again.
    read_due: u64 = never,
    /// When a part of what waits to be sent must be gone.
    send_due: u64 = never,
    body: Body,

    const Body = union(enum) {
        listener: Listener,
        connection: Connection,
        /// A duplicate of the watched fd.
        watch: i32,
    };

    fn fd(entry: *const Entry) i32 {
        return switch (entry.body) {
            .listener => |*listener| listener.socket,
            .connection => |*connection| connection.socket,
            .watch => |watched| watched,
        };
    }
};

/// The events of one wait.
const Batch = struct {
    events: []abi.PumpEvent,
    count: u32 = 0,

    fn isFull(batch: *const Batch) bool {
        return batch.count == batch.events.len;
    }

    fn add(batch: *Batch, kind: abi.PumpEventKind, token: u32, value: i32) *abi.PumpEvent {
        std.debug.assert(!batch.isFull());
        const event = &batch.events[batch.count];
        batch.count += 1;
        event.kind = kind;
        event.token = token;
        event.value = value;
        event.fd_count = 0;
        event.size_bytes = 0;
        return event;
    }
};

pub const Pump = struct {
    mutex: sys.Mutex,
    set: i32,
    /// Ends a wait: signalled by `wake`, and by calls that make the wait's timeout too long.
    alarm: i32,
    wake_asked: bool,
    waiting: bool,
    stall_limit_ns: u64,
    /// No deadline is earlier.
    next_due: u64,
    entries: TokenTable(Entry, abi.pump_tokens_max),

    /// A message not whole so long after its first byte ends its connection, and so does one of ours
    /// of which no byte is read for so long.
    pub fn create(stall_limit_ms: u32) Error!*Pump {
        if (stall_limit_ms == 0) return error.InvalidArgument;
        var entries: TokenTable(Entry, abi.pump_tokens_max) = try .create();
        errdefer entries.destroy();
        const set = try sys.epoll();
        errdefer sys.close(set);
        const alarm = try sys.eventfd();
        errdefer sys.close(alarm);
        try sys.epollAdd(set, alarm, sys.event_in, alarm_token);
        const pump = try std.heap.page_allocator.create(Pump);
        pump.* = .{
            .mutex = .{},
            .set = set,
            .alarm = alarm,
            .wake_asked = false,
            .waiting = false,
            .stall_limit_ns = @as(u64, stall_limit_ms) * 1_000_000,
            .next_due = never,
            .entries = entries,
        };
        return pump;
    }

    /// Closes everything, and removes the files of its listeners. Nobody may use the pump meanwhile;
    /// `Busy` while a thread waits: wake it first.
    pub fn destroy(pump: *Pump) error{Busy}!void {
        {
            pump.mutex.lock();
            defer pump.mutex.unlock();
            if (pump.waiting) return error.Busy;
        }
        for (0..pump.entries.used) |index| {
            if (pump.entries.at(@intCast(index))) |found| pump.release(found.token, found.object);
        }
        sys.close(pump.alarm);
        sys.close(pump.set);
        pump.entries.destroy();
        std.heap.page_allocator.destroy(pump);
    }

    /// Listens at a path; the file's permission bits are `mode`, and it goes with the listener.
    pub fn listen(pump: *Pump, path: []const u8, mode: u32) Error!u32 {
        var listener = try Listener.open(path, mode);
        errdefer listener.close();
        return pump.insertListener(listener);
    }

    /// Connects to a path, or fails at once. The connection is not read until it is resumed.
    pub fn connect(pump: *Pump, path: []const u8) Error!u32 {
        if (path.len == 0 or std.mem.findScalar(u8, path, 0) != null) return error.InvalidArgument;
        if (path.len > abi.path_bytes_max) return error.LimitReached;
        const socket = try sys.socket();
        errdefer sys.close(socket);
        try sys.connect(socket, path);
        pump.mutex.lock();
        defer pump.mutex.unlock();
        return pump.insertConnection(socket);
    }

    /// On success the connected socket belongs to the pump. It is not read until it is resumed.
    pub fn adopt(pump: *Pump, socket: i32) Error!u32 {
        if (try sys.socketKind(socket) != .connection) return error.WrongFd;
        try sys.setNonblocking(socket);
        pump.mutex.lock();
        defer pump.mutex.unlock();
        return pump.insertConnection(socket);
    }

    /// On success the listening socket belongs to the pump.
    pub fn adoptListener(pump: *Pump, socket: i32) Error!u32 {
        if (try sys.socketKind(socket) != .listener) return error.WrongFd;
        try sys.setNonblocking(socket);
        return pump.insertListener(.adopt(socket));
    }

    /// On success the socket belongs to the pump, one that listens already at a path, with the file that it had there.
    /// It is held.
    pub fn adoptListenerAt(pump: *Pump, socket: i32, path: []const u8, file: abi.SocketFile) Error!u32 {
        if (try sys.socketKind(socket) != .listener) return error.WrongFd;
        try sys.setNonblocking(socket);
        const listener: Listener = try .adoptAt(socket, path, file);
        pump.mutex.lock();
        defer pump.mutex.unlock();
        const token = try pump.insert(.{ .listener = listener }, sys.event_once);
        const entry = pump.entries.find(token) catch unreachable;
        entry.held = true;
        return token;
    }

    // For a handover.

    /// Leaves a listener or a connection alone, or looks after it again. What has been read of it before comes still,
    /// with the events of the wait under way.
    pub fn hold(pump: *Pump, token: u32, held: bool) Error!void {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        const entry = try pump.entries.find(token);
        if (entry.body == .watch) return error.NoSuchHandle;
        entry.held = held;
        pump.arm(token, entry);
    }

    /// The socket of a held connection or listener, still ours. `Busy`: a part of a message is with us, on its way in
    /// or out.
    pub fn socketOf(pump: *Pump, token: u32, file: *abi.SocketFile) Error!i32 {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        const entry = try pump.entries.find(token);
        if (!entry.held) return error.InvalidArgument;
        if (entry.verdict != null) return error.Closed;
        switch (entry.body) {
            .listener => |*listener| file.* = listener.fileOf(),
            .connection => |*connection| {
                file.* = .{ .device = 0, .inode = 0 };
                if (connection.isMidMessage() or !connection.outbox.isEmpty()) return error.Busy;
            },
            .watch => return error.NoSuchHandle,
        }
        return entry.fd();
    }

    /// Ends a connection both ways. What the peer sent before still comes, and then the hangup: nothing that it sends
    /// from now on arrives.
    pub fn shut(pump: *Pump, token: u32) Error!void {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        const entry = try pump.entries.find(token);
        if (entry.body != .connection) return error.NoSuchHandle;
        sys.shutdown(entry.fd());
    }

    pub fn peerOf(pump: *Pump, token: u32) Error!abi.SocketPeer {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        const entry = try pump.entries.find(token);
        if (entry.body != .connection) return error.NoSuchHandle;
        const peer = try sys.socketPeer(entry.fd());
        return .{ .pid = peer.pid, .uid = peer.uid };
    }

    /// Reports each time that an fd, borrowed, becomes readable anew; never reads it.
    pub fn watch(pump: *Pump, fd: i32) Error!u32 {
        const own = try sys.duplicate(fd);
        errdefer sys.close(own);
        pump.mutex.lock();
        defer pump.mutex.unlock();
        return pump.insert(.{ .watch = own }, sys.event_in | sys.event_edge);
    }

    /// Sends a message, or queues it; borrows the fds. Whether all of it is the kernel's now, which delivers it
    /// whatever becomes of us. `Closed`: it is lost, and the connection with it.
    pub fn send(pump: *Pump, token: u32, message: Message) Error!bool {
        if (message.payload.len > abi.message_payload_max) return error.LimitReached;
        if (message.fds.len > abi.message_fds_max) return error.LimitReached;
        var buffer: [outbox.message_bytes_max]u8 = undefined;
        const bytes = message.lay(&buffer);
        pump.mutex.lock();
        defer pump.mutex.unlock();
        const entry = try pump.entries.find(token);
        if (entry.body != .connection) return error.NoSuchHandle;
        if (entry.verdict != null) return error.Closed;
        const connection = &entry.body.connection;
        connection.send(bytes, message.fds) catch |reason| return pump.sendFailed(token, entry, reason);
        if (connection.outbox.isEmpty()) return true;
        if (entry.send_due == never) {
            entry.send_due = pump.dueIn(pump.stall_limit_ns);
            if (pump.waiting) _ = sys.eventfdSignal(pump.alarm);
        }
        pump.arm(token, entry);
        return false;
    }

    /// Only a bad fd is the caller's fault. All else ends the connection.
    fn sendFailed(pump: *Pump, token: u32, entry: *Entry, reason: connection_file.SendError) Error {
        const errno = sys.lastErrno();
        switch (reason) {
            // Reading finds the end, after what the peer may have said before.
            error.Closed => {},
            error.Unread => entry.verdict = @backingInt(abi.HangupReason.unread),
            error.OutOfMemory => entry.verdict = -1000 - @as(i32, sys.errno_no_memory),
            error.System => {
                if (errno == sys.errno_bad_fd) return error.System;
                entry.verdict = -1000 - @as(i32, errno);
            },
        }
        sys.shutdown(entry.body.connection.socket);
        pump.arm(token, entry);
        return error.Closed;
    }

    /// Reads the connection's next message: after `connect`, `adopt`, an accepted or a message event.
    pub fn resumeReading(pump: *Pump, token: u32) Error!void {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        const entry = try pump.entries.find(token);
        if (entry.body != .connection) return error.NoSuchHandle;
        entry.paused = false;
        pump.arm(token, entry);
    }

    /// Closes whatever the token stands for; no event follows. What the kernel has taken is still delivered.
    pub fn close(pump: *Pump, token: u32) Error!void {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        pump.release(token, try pump.entries.find(token));
    }

    /// Makes the wait, this one or the next, return with an event.
    pub fn wake(pump: *Pump) void {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        pump.wake_asked = true;
        _ = sys.eventfdSignal(pump.alarm);
    }

    /// Waits for events and returns their number; 0 after `timeout_ms` (-1: for ever), or earlier for
    /// no reason that matters. `events` has room for two at least.
    pub fn wait(pump: *Pump, events: []abi.PumpEvent, timeout_ms: i32) Error!u32 {
        if (events.len < 2) return error.InvalidArgument;
        const timeout = try pump.enterWait(timeout_ms);
        var ready: [abi.pump_batch_max - 1]sys.Event = undefined;
        // One place stays free for a deadline, however busy the sockets are.
        const found = sys.epollWait(pump.set, ready[0..@min(ready.len, events.len - 1)], timeout);
        pump.mutex.lock();
        defer pump.mutex.unlock();
        pump.waiting = false;
        var batch: Batch = .{ .events = events };
        for (found) |event| pump.handle(@truncate(event.data.u64), &batch);
        pump.handleDue(&batch);
        return batch.count;
    }

    fn enterWait(pump: *Pump, timeout_ms: i32) Error!i32 {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        if (pump.waiting) return error.Busy;
        pump.waiting = true;
        if (pump.next_due == never) return timeout_ms;
        const left_ms = std.math.divCeil(u64, pump.next_due -| sys.nanoseconds(), 1_000_000) catch unreachable;
        const left: i32 = @intCast(@min(left_ms, std.math.maxInt(i32)));
        return if (timeout_ms < 0) left else @min(left, timeout_ms);
    }

    // Inside a wait.

    /// At most one event for each that epoll reports.
    fn handle(pump: *Pump, token: u32, batch: *Batch) void {
        if (token == alarm_token) {
            _ = sys.eventfdDrain(pump.alarm);
            if (pump.wake_asked) _ = batch.add(.wake, 0, 0);
            pump.wake_asked = false;
            return;
        }
        // Closed by another thread since epoll saw it.
        const entry = pump.entries.find(token) catch return;
        switch (entry.body) {
            .listener => pump.accept(token, entry, batch),
            .connection => pump.serve(token, entry, batch),
            .watch => _ = batch.add(.wake, token, 0),
        }
    }

    fn accept(pump: *Pump, token: u32, entry: *Entry, batch: *Batch) void {
        if (entry.held) return;
        if (pump.acceptOne(&entry.body.listener)) |connection| {
            if (connection) |accepted| _ = batch.add(.accepted, token, @intCast(accepted));
            pump.arm(token, entry);
        } else |reason| {
            const full = @backingInt(abi.Status.limit_reached);
            const value = if (reason == error.System) -1000 - @as(i32, sys.lastErrno()) else full;
            _ = batch.add(.accepted, token, value);
            // Not armed: the peers wait in the kernel's queue, and we do not spin.
            entry.read_due = pump.dueIn(accept_pause_ns);
        }
    }

    /// Null: the peer has left again.
    fn acceptOne(pump: *Pump, listener: *const Listener) Error!?u32 {
        if (pump.entries.isFull()) return error.LimitReached;
        const socket = sys.accept(listener.socket) catch switch (sys.lastErrno()) {
            sys.errno_again, sys.errno_interrupted, sys.errno_aborted => return null,
            else => return error.System,
        };
        errdefer sys.close(socket);
        return try pump.insertConnection(socket);
    }

    fn serve(pump: *Pump, token: u32, entry: *Entry, batch: *Batch) void {
        if (entry.verdict) |verdict| return pump.hangUp(token, entry, verdict, batch);
        pump.flush(entry) catch |reason| switch (reason) {
            // There may be messages of the peer's before the end.
            error.Closed => entry.body.connection.outbox.clear(),
            else => return pump.hangUp(token, entry, -1000 - @as(i32, sys.lastErrno()), batch),
        };
        if (!entry.paused and !entry.held) switch (entry.body.connection.receive()) {
            .incomplete => {
                const begun = entry.body.connection.isMidMessage();
                if (begun and entry.read_due == never) entry.read_due = pump.dueIn(pump.stall_limit_ns);
            },
            .message => {
                entry.body.connection.take(batch.add(.message, token, 0));
                entry.paused = true;
                entry.read_due = never;
            },
            .hangup => |verdict| return pump.hangUp(token, entry, verdict, batch),
        };
        pump.arm(token, entry);
    }

    fn flush(pump: *Pump, entry: *Entry) connection_file.SendError!void {
        const connection = &entry.body.connection;
        defer if (connection.outbox.isEmpty()) {
            entry.send_due = never;
        };
        if (try connection.flush()) entry.send_due = pump.dueIn(pump.stall_limit_ns);
    }

    fn hangUp(pump: *Pump, token: u32, entry: *Entry, verdict: connection_file.Verdict, batch: *Batch) void {
        pump.release(token, entry);
        _ = batch.add(.hangup, token, verdict);
    }

    /// Deals with the deadlines that have passed, and finds the next.
    fn handleDue(pump: *Pump, batch: *Batch) void {
        const now = sys.nanoseconds();
        if (now < pump.next_due) return;
        pump.next_due = never;
        for (0..pump.entries.used) |index| {
            const found = pump.entries.at(@intCast(index)) orelse continue;
            const due = @min(found.object.read_due, found.object.send_due);
            if (due > now or batch.isFull()) {
                pump.next_due = @min(pump.next_due, due);
            } else {
                pump.handleOneDue(found.token, found.object, now, batch);
            }
        }
    }

    fn handleOneDue(pump: *Pump, token: u32, entry: *Entry, now: u64, batch: *Batch) void {
        if (entry.body == .listener) {
            entry.read_due = never;
            return pump.arm(token, entry);
        }
        const reason: abi.HangupReason = if (entry.read_due <= now) .stalled else .unread;
        pump.hangUp(token, entry, @backingInt(reason), batch);
    }

    fn dueIn(pump: *Pump, duration_ns: u64) u64 {
        const due = sys.nanoseconds() + duration_ns;
        pump.next_due = @min(pump.next_due, due);
        return due;
    }

    // Entries.

    fn insertListener(pump: *Pump, listener: Listener) Error!u32 {
        pump.mutex.lock();
        defer pump.mutex.unlock();
        return pump.insert(.{ .listener = listener }, sys.event_in | sys.event_once);
    }

    fn insertConnection(pump: *Pump, socket: i32) Error!u32 {
        return pump.insert(.{ .connection = .{ .socket = socket } }, sys.event_once);
    }

    fn insert(pump: *Pump, body: Entry.Body, events: u32) Error!u32 {
        const new = try pump.entries.insert(.{ .body = body });
        errdefer pump.entries.remove(new.token);
        try sys.epollAdd(pump.set, new.object.fd(), events, new.token);
        return new.token;
    }

    fn release(pump: *Pump, token: u32, entry: *Entry) void {
        // Whoever else holds the file would keep it in the set.
        sys.epollRemove(pump.set, entry.fd());
        switch (entry.body) {
            .listener => |*listener| if (entry.held) sys.close(listener.socket) else listener.close(),
            .connection => |*connection| if (entry.held) connection.forget() else connection.close(),
            .watch => |fd| sys.close(fd),
        }
        pump.entries.remove(token);
    }

    /// Asks epoll for what the entry waits for; no more than one report comes of it.
    fn arm(pump: *Pump, token: u32, entry: *Entry) void {
        var events: u32 = 0;
        switch (entry.body) {
            .listener => if (!entry.held) {
                events |= sys.event_in;
            },
            .connection => |*connection| {
                if ((!entry.paused and !entry.held) or entry.verdict != null) events |= sys.event_in;
                if (!connection.outbox.isEmpty()) events |= sys.event_out;
            },
            .watch => unreachable,
        }
        if (events == 0) return;
        // The fd is in the set, and changing it takes no memory.
        sys.epollChange(pump.set, entry.fd(), events | sys.event_once, token) catch unreachable;
    }
};

/// No entry has it.
const alarm_token: u32 = 0;

pub const Message = struct {
    request: u32,
    flags: u32,
    payload: []const u8,
    fds: []const i32,

    /// As on the wire.
    fn lay(message: *const Message, buffer: *[outbox.message_bytes_max]u8) []const u8 {
        const fields = [3]u32{ message.request, message.flags, @intCast(message.payload.len) };
        @memcpy(buffer[0..connection_file.header_bytes], std.mem.asBytes(&fields));
        @memcpy(buffer[connection_file.header_bytes..][0..message.payload.len], message.payload);
        return buffer[0 .. connection_file.header_bytes + message.payload.len];
    }
};

const testing = std.testing;
const census = @import("fd_census.zig");

/// A pump with one connection whose other end the test holds.
const Rig = struct {
    pump: *Pump,
    peer: i32,
    token: u32,
    events: [4]abi.PumpEvent = undefined,

    fn init(stall_limit_ms: u32) !Rig {
        const pump = try Pump.create(stall_limit_ms);
        errdefer pump.destroy() catch unreachable;
        const pair = try sys.socketPair();
        const token = try pump.adopt(pair[0]);
        try pump.resumeReading(token);
        return .{ .pump = pump, .peer = pair[1], .token = token };
    }

    fn deinit(rig: *Rig) void {
        if (rig.peer >= 0) sys.close(rig.peer);
        rig.pump.destroy() catch unreachable;
    }

    fn write(rig: *Rig, bytes: []const u8, fds: []const i32) !void {
        try testing.expectEqual(bytes.len, try sys.send(rig.peer, bytes, fds));
    }

    fn hangUpPeer(rig: *Rig) void {
        sys.close(rig.peer);
        rig.peer = -1;
    }

    /// What is there now.
    fn poll(rig: *Rig) ![]abi.PumpEvent {
        return rig.events[0..try rig.pump.wait(&rig.events, 0)];
    }

    /// The one event that must come.
    fn next(rig: *Rig) !*abi.PumpEvent {
        var count: u32 = 0;
        while (count == 0) count = try rig.pump.wait(&rig.events, -1);
        try testing.expectEqual(1, count);
        return &rig.events[0];
    }

    fn expectHangup(rig: *Rig, reason: abi.HangupReason) !void {
        const event = try rig.next();
        try testing.expectEqual(.hangup, event.kind);
        try testing.expectEqual(rig.token, event.token);
        try testing.expectEqual(@backingInt(reason), event.value);
        try testing.expectError(error.NoSuchHandle, rig.pump.resumeReading(rig.token));
    }
};

fn laid(buffer: *[outbox.message_bytes_max]u8, request: u32, payload: []const u8) []const u8 {
    const message: Message = .{ .request = request, .flags = 1, .payload = payload, .fds = &.{} };
    return message.lay(buffer);
}

test "messages in pieces and several at once come whole, one by one" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    var buffer: [outbox.message_bytes_max]u8 = undefined;
    const first = laid(&buffer, 7, "abc");
    for (first[0 .. first.len - 1]) |*byte| {
        try rig.write(byte[0..1], &.{});
        try testing.expectEqual(0, (try rig.poll()).len);
    }
    try rig.write(first[first.len - 1 ..], &.{});
    const event = try rig.next();
    try testing.expectEqual(.message, event.kind);
    try testing.expectEqual(7, event.request);
    try testing.expectEqual(1, event.flags);
    try testing.expectEqualStrings("abc", event.payload[0..event.size_bytes]);

    for (0..3) |i| try rig.write(laid(&buffer, @intCast(i), "x"), &.{});
    try testing.expectEqual(0, (try rig.poll()).len);
    for (0..3) |i| {
        try rig.pump.resumeReading(rig.token);
        try testing.expectEqual(@as(u32, @intCast(i)), (try rig.next()).request);
        try testing.expectEqual(0, (try rig.poll()).len);
    }
}

test "a message before the end is still read" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    var buffer: [outbox.message_bytes_max]u8 = undefined;
    try rig.write(laid(&buffer, 1, "abc"), &.{});
    rig.hangUpPeer();
    try testing.expectEqual(.message, (try rig.next()).kind);
    try testing.expectEqual(0, (try rig.poll()).len);
    try rig.pump.resumeReading(rig.token);
    try rig.expectHangup(.closed);
}

test "fds of a message that is never whole are closed with its connection" {
    const before = census.openFds();
    {
        var rig = try Rig.init(10_000);
        defer rig.deinit();
        try rig.write("a", &.{ rig.peer, rig.peer });
        try testing.expectEqual(0, (try rig.poll()).len);
        try testing.expectEqual(before + 6, census.openFds());
    }
    try testing.expectEqual(before, census.openFds());
}

test "a listener without fds left says so, rests, and accepts later" {
    const path = "/tmp/vring-pump-test.sock";
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    const listener = try rig.pump.listen(path, 0o600);
    const client = try sys.socket();
    defer sys.close(client);
    try sys.connect(client, path);
    {
        const limit = try census.FdLimit.init(0);
        defer limit.deinit();
        const event = try rig.next();
        try testing.expectEqual(.accepted, event.kind);
        try testing.expectEqual(listener, event.token);
        try testing.expectEqual(-1024, event.value);
        try testing.expectEqual(0, (try rig.poll()).len);
    }
    const event = try rig.next();
    try testing.expectEqual(.accepted, event.kind);
    try testing.expect(event.value > 0);
}

test "a peer that stops in a message is hung up on, without spinning" {
    for ([_][]const u8{ "a", "abcdefghijk" }) |begun| {
        var rig = try Rig.init(50);
        defer rig.deinit();
        try rig.write(begun, &.{});
        const started = sys.nanoseconds();
        var waits: u32 = 0;
        while (try rig.pump.wait(&rig.events, -1) == 0) waits += 1;
        try testing.expectEqual(.hangup, rig.events[0].kind);
        try testing.expectEqual(@backingInt(abi.HangupReason.stalled), rig.events[0].value);
        try testing.expect(sys.nanoseconds() - started >= 50_000_000);
        try testing.expect(waits < 5);
    }
}

test "a peer that is only silent is left in peace, and so is one that sends whole messages" {
    var rig = try Rig.init(300);
    defer rig.deinit();
    var buffer: [outbox.message_bytes_max]u8 = undefined;
    for (0..2) |_| {
        const bytes = laid(&buffer, 1, "abc");
        try rig.write(bytes[0..5], &.{});
        try testing.expectEqual(0, try rig.pump.wait(&rig.events, 1));
        try rig.write(bytes[5..], &.{});
        try testing.expectEqual(.message, (try rig.next()).kind);
        try testing.expectEqual(0, try rig.pump.wait(&rig.events, 350));
        try rig.pump.resumeReading(rig.token);
        try testing.expectEqual(0, try rig.pump.wait(&rig.events, 0));
    }
}

/// Sends until one more would wait in the outbox, and returns how many were sent.
fn fill(rig: *Rig) !u32 {
    var count: u32 = 0;
    while ((try rig.pump.entries.find(rig.token)).body.connection.outbox.isEmpty()) : (count += 1) {
        _ = try rig.pump.send(rig.token, .{ .request = count, .flags = 5, .payload = "12345678", .fds = &.{} });
    }
    return count;
}

test "what the peer reads late arrives whole, in order and with its fds" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    var count = try fill(&rig);
    for (0..20) |_| {
        const fds = [_]i32{rig.pump.alarm};
        _ = try rig.pump.send(rig.token, .{ .request = count, .flags = 5, .payload = "12345678", .fds = &fds });
        count += 1;
    }
    try testing.expectEqual(0, (try rig.poll()).len);
    var fd_count: u32 = 0;
    for (0..count) |i| {
        var bytes: [20]u8 = undefined;
        var fds: [8]i32 = undefined;
        while (true) {
            const received = sys.receiveWithFds(rig.peer, &bytes, &fds) catch {
                try testing.expectEqual(0, (try rig.poll()).len);
                continue;
            };
            try testing.expectEqual(20, received.bytes);
            for (fds[0..received.fd_count]) |fd| sys.close(fd);
            fd_count += received.fd_count;
            break;
        }
        try testing.expectEqual(@as(u32, @intCast(i)), std.mem.readInt(u32, bytes[0..4], .native));
    }
    try testing.expectEqual(20, fd_count);
    try testing.expectError(error.System, sys.receive(rig.peer, rig.events[0].payload[0..1]));
    try testing.expectEqual(0, (try rig.pump.entries.find(rig.token)).body.connection.outbox.slots.len);
}

test "a peer that reads nothing is hung up on when too much waits" {
    const before = census.openFds();
    {
        var rig = try Rig.init(10_000);
        defer rig.deinit();
        const message: Message = .{ .request = 1, .flags = 5, .payload = "", .fds = &.{rig.peer} };
        for (0..100_000) |_| {
            _ = rig.pump.send(rig.token, message) catch |reason| {
                try testing.expectEqual(error.Closed, reason);
                break;
            };
        } else return error.TestUnexpectedResult;
        try testing.expectError(error.Closed, rig.pump.send(rig.token, message));
        try rig.expectHangup(.unread);
    }
    try testing.expectEqual(before, census.openFds());
}

test "a peer that reads nothing is hung up on when something waits too long" {
    var rig = try Rig.init(50);
    defer rig.deinit();
    _ = try fill(&rig);
    try rig.expectHangup(.unread);
}

test "sending to a peer that left tells so once reading has told it too" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    var buffer: [outbox.message_bytes_max]u8 = undefined;
    try rig.write(laid(&buffer, 1, ""), &.{});
    rig.hangUpPeer();
    const message: Message = .{ .request = 1, .flags = 5, .payload = "", .fds = &.{} };
    try testing.expectError(error.Closed, rig.pump.send(rig.token, message));
    try testing.expectEqual(.message, (try rig.next()).kind);
    try rig.pump.resumeReading(rig.token);
    try rig.expectHangup(.closed);
    try testing.expectError(error.NoSuchHandle, rig.pump.send(rig.token, message));
}

test "an old token does nothing to the connection that came in its place" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    const old = rig.token;
    try rig.pump.close(old);
    const pair = try sys.socketPair();
    defer sys.close(pair[1]);
    const new = try rig.pump.adopt(pair[0]);
    try testing.expect(new != old);
    try testing.expectEqual(1, rig.pump.entries.used);
    const message: Message = .{ .request = 1, .flags = 5, .payload = "", .fds = &.{} };
    try testing.expectError(error.NoSuchHandle, rig.pump.send(old, message));
    try testing.expectError(error.NoSuchHandle, rig.pump.resumeReading(old));
    try testing.expectError(error.NoSuchHandle, rig.pump.close(old));
    try testing.expectError(error.NoSuchHandle, rig.pump.close(0));
    try testing.expectError(error.NoSuchHandle, rig.pump.close(std.math.maxInt(u32)));
    _ = try rig.pump.send(new, message);
}

test "a watched fd reports each change and is never read; a wake is told once" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    const fd = try sys.eventfd();
    const token = try rig.pump.watch(fd);
    for (0..3) |_| {
        _ = sys.eventfdSignal(fd);
        try testing.expectEqual(token, (try rig.next()).token);
        try testing.expectEqual(0, (try rig.poll()).len);
    }
    try testing.expectEqual(3, sys.eventfdDrain(fd));
    sys.close(fd);
    try rig.pump.close(token);
    rig.pump.wake();
    rig.pump.wake();
    const event = try rig.next();
    try testing.expectEqual(.wake, event.kind);
    try testing.expectEqual(0, event.token);
    try testing.expectEqual(0, (try rig.poll()).len);
}

test "only sockets of the right kind are adopted, and others stay with the caller" {
    const pump = try Pump.create(1000);
    defer pump.destroy() catch unreachable;
    const fd = try sys.eventfd();
    defer sys.close(fd);
    try testing.expectError(error.System, pump.adopt(fd));
    try testing.expectError(error.System, pump.adopt(-1));
    const datagrams = std.c.socket(1, 2, 0);
    defer sys.close(datagrams);
    try testing.expectError(error.WrongFd, pump.adopt(datagrams));
    const pair = try sys.socketPair();
    defer for (pair) |end| sys.close(end);
    try testing.expectError(error.WrongFd, pump.adoptListener(pair[0]));
    try testing.expectError(error.System, pump.connect("/nowhere/at/all"));
    try testing.expectEqual(sys.errno_absent, sys.lastErrno());
}

/// Reads messages with a pump in another thread and answers each one; for the test that follows.
const Echo = struct {
    pump: *Pump,
    answers: u32 = 0,
    hangups: u32 = 0,

    fn run(echo: *Echo) void {
        var events: [8]abi.PumpEvent = undefined;
        while (true) {
            const count = echo.pump.wait(&events, -1) catch unreachable;
            for (events[0..count]) |*event| switch (event.kind) {
                .wake => return,
                .accepted => unreachable,
                .hangup => echo.hangups += 1,
                .message => {
                    echo.answers += 1;
                    for (event.fds[0..event.fd_count]) |fd| sys.close(fd);
                    const payload = event.payload[0..event.size_bytes];
                    _ = echo.pump.send(event.token, .{
                        .request = event.request,
                        .flags = 5,
                        .payload = payload,
                        .fds = &.{},
                    }) catch false;
                    echo.pump.resumeReading(event.token) catch {};
                },
            };
        }
    }
};

test "other threads open, send, close and wake while one waits" {
    const pump = try Pump.create(10_000);
    defer pump.destroy() catch unreachable;
    var echo: Echo = .{ .pump = pump };
    const thread = try std.Thread.spawn(.{}, Echo.run, .{&echo});
    var buffer: [outbox.message_bytes_max]u8 = undefined;
    var closed: u32 = 0;
    for (0..200) |round| {
        const pair = try sys.socketPair();
        const token = try pump.adopt(pair[0]);
        try pump.resumeReading(token);
        const bytes = laid(&buffer, @intCast(round), "abc");
        for (bytes, 0..) |*byte, i| {
            _ = try sys.send(pair[1], byte[0..1], if (i == 0) &.{pair[1]} else &.{});
        }
        var answer: [15]u8 = undefined;
        while (true) {
            try testing.expectEqual(15, sys.receive(pair[1], &answer) catch {
                sys.yieldCpu();
                continue;
            });
            break;
        }
        try testing.expectEqual(@as(u32, @intCast(round)), std.mem.readInt(u32, answer[0..4], .native));
        if (round % 2 == 0) {
            try pump.close(token);
            closed += 1;
        }
        sys.close(pair[1]);
    }
    try testing.expectError(error.Busy, waitAgain(pump));
    pump.wake();
    thread.join();
    var events: [8]abi.PumpEvent = undefined;
    while (closed + echo.hangups < 200) {
        const count = try pump.wait(&events, 1000);
        try testing.expect(count > 0);
        echo.hangups += count;
    }
    try testing.expectEqual(200, echo.answers);
}

fn waitAgain(pump: *Pump) Error!void {
    var events: [2]abi.PumpEvent = undefined;
    // The other thread may be between two of its waits.
    while (true) _ = try pump.wait(&events, 0);
}

test "what is held is neither read nor closed for others, and goes on where it was" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    var file: abi.SocketFile = undefined;
    try testing.expectError(error.InvalidArgument, rig.pump.socketOf(rig.token, &file));
    try rig.pump.hold(rig.token, true);
    try rig.write(std.mem.asBytes(&[3]u32{ 7, 1, 0 }), &.{});
    try testing.expectEqual(0, try rig.pump.wait(&rig.events, 20));
    // Another process goes on.
    const other = try sys.duplicate(try rig.pump.socketOf(rig.token, &file));
    try rig.pump.close(rig.token);
    rig.token = try rig.pump.adopt(other);
    try rig.pump.resumeReading(rig.token);
    try testing.expectEqual(1, try rig.pump.wait(&rig.events, 1000));
    try testing.expectEqual(.message, rig.events[0].kind);
    try testing.expectEqual(7, rig.events[0].request);
    // A part of a message stays with whoever has read it.
    try rig.pump.resumeReading(rig.token);
    try rig.write("part", &.{});
    try testing.expectEqual(0, try rig.pump.wait(&rig.events, 20));
    try rig.pump.hold(rig.token, true);
    try testing.expectError(error.Busy, rig.pump.socketOf(rig.token, &file));
    try rig.pump.hold(rig.token, false);
    try rig.write(std.mem.asBytes(&[3]u32{ 0, 1, 0 })[4..], &.{});
    try testing.expectEqual(1, try rig.pump.wait(&rig.events, 1000));
    try testing.expectEqual(.message, rig.events[0].kind);
}

test "what was sent before a connection was shut arrives, and nothing that is sent later" {
    var rig = try Rig.init(10_000);
    defer rig.deinit();
    try rig.write(std.mem.asBytes(&[3]u32{ 7, 1, 0 }), &.{});
    try rig.pump.shut(rig.token);
    try testing.expectError(error.System, sys.send(rig.peer, "late", &.{}));
    try testing.expectEqual(1, try rig.pump.wait(&rig.events, 1000));
    try testing.expectEqual(.message, rig.events[0].kind);
    try rig.pump.resumeReading(rig.token);
    try testing.expectEqual(1, try rig.pump.wait(&rig.events, 1000));
    try testing.expectEqual(.hangup, rig.events[0].kind);
}

test "a held listener keeps its file, and another that adopts it removes it" {
    const path = "/tmp/vring-held.sock";
    const pump = try Pump.create(10_000);
    defer pump.destroy() catch unreachable;
    const token = try pump.listen(path, 0o600);
    try pump.hold(token, true);
    var file: abi.SocketFile = undefined;
    const other = try sys.duplicate(try pump.socketOf(token, &file));
    try pump.close(token);
    const client = try sys.socket();
    defer sys.close(client);
    try sys.connect(client, path);
    const adopted = try pump.adoptListenerAt(other, path, file);
    var events: [4]abi.PumpEvent = undefined;
    try testing.expectEqual(0, try pump.wait(&events, 20));
    try pump.hold(adopted, false);
    try testing.expectEqual(1, try pump.wait(&events, 1000));
    try testing.expectEqual(.accepted, events[0].kind);
    try testing.expectEqual(sys.threadId(), (try pump.peerOf(@intCast(events[0].value))).pid);
    try pump.close(adopted);
    const late = try sys.socket();
    defer sys.close(late);
    try testing.expectError(error.System, sys.connect(late, path));
}
