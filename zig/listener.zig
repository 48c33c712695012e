//! A Unix socket that listens at a path: a stale file there is replaced, a live one is not, and its
//! permissions are right from the first moment.

const std = @import("std");
const abi = @import("abi.zig");
const sys = @import("sys.zig");

pub const Error = error{
    /// Empty, or with a zero byte.
    InvalidArgument,
    /// Longer than `path_bytes_max`.
    LimitReached,
    /// Somebody listens there.
    Busy,
    /// `sys.lastErrno` says why; `errno_not_socket`: there is a file of another kind.
    System,
};

pub const Listener = struct {
    socket: i32,
    path: Path,
    /// Of the file that belongs to the socket; none, when the socket came from outside.
    file: ?Identity,

    /// `mode` is what the file's permission bits will be, whatever the umask.
    pub fn open(path: []const u8, mode: u32) Error!Listener {
        const own = try Path.init(path);
        const folder = lockFolder(path);
        defer if (folder) |fd| sys.close(fd);
        for (0..replacements_max) |_| {
            return openAt(own, mode) catch |reason| {
                if (sys.lastErrno() != sys.errno_in_use) return reason;
                try removeStale(own);
                continue;
            };
        }
        return error.Busy;
    }

    /// Takes over a socket that listens already; leaves its file alone.
    pub fn adopt(socket: i32) Listener {
        return .{ .socket = socket, .path = .{}, .file = null };
    }

    /// Takes over a socket that another process of ours opened, and the file that it had then.
    pub fn adoptAt(socket: i32, path: []const u8, file: abi.SocketFile) Error!Listener {
        const known: ?Identity = if (file.inode == 0) null else .{ .device = file.device, .inode = file.inode };
        return .{ .socket = socket, .path = try Path.init(path), .file = known };
    }

    /// For `adoptAt`.
    pub fn fileOf(listener: *const Listener) abi.SocketFile {
        const file = listener.file orelse return .{ .device = 0, .inode = 0 };
        return .{ .device = file.device, .inode = file.inode };
    }

    /// Removes the socket's file, unless another has taken its place.
    pub fn close(listener: *Listener) void {
        // While the socket is open its file's number cannot be used again.
        if (listener.file) |file| {
            const present = Identity.at(&listener.path) catch null;
            if (present != null and present.?.equals(file)) sys.unlink(listener.path.text()) catch {};
        }
        sys.close(listener.socket);
    }

    /// Somebody else may put a new file there as fast as we remove one.
    const replacements_max = 4;

    fn openAt(path: Path, mode: u32) Error!Listener {
        const socket = try sys.socket();
        errdefer sys.close(socket);
        try sys.changeMode(socket, mode);
        try sys.bind(socket, path.bytes());
        errdefer sys.unlink(path.text()) catch {};
        const file = try sys.openInfo(path.text());
        defer sys.close(file);
        const info = try sys.fileInfo(file);
        // The umask took bits away: giving them back leaves no moment at which anyone may do too much.
        if (info.mode != mode) try sys.changeModeOfOpened(file, mode);
        try sys.listen(socket);
        return .{ .socket = socket, .path = path, .file = Identity.of(info) };
    }
};

/// With room for the zero byte that the kernel wants.
const Path = struct {
    buffer: [abi.path_bytes_max + 1]u8 = @splat(0),
    len: u32 = 0,

    fn init(given: []const u8) Error!Path {
        if (given.len == 0 or std.mem.findScalar(u8, given, 0) != null) return error.InvalidArgument;
        if (given.len > abi.path_bytes_max) return error.LimitReached;
        var path: Path = .{ .len = @intCast(given.len) };
        @memcpy(path.buffer[0..given.len], given);
        return path;
    }

    fn bytes(path: *const Path) []const u8 {
        return path.buffer[0..path.len];
    }

    fn text(path: *const Path) [*:0]const u8 {
        return path.buffer[0..path.len :0].ptr;
    }
};

const Identity = struct {
    device: u64,
    inode: u64,

    fn of(info: sys.FileInfo) Identity {
        return .{ .device = info.device, .inode = info.inode };
    }

    fn at(path: *const Path) sys.Error!Identity {
        return of(try infoAt(path));
    }

    fn equals(one: Identity, other: Identity) bool {
        return one.device == other.device and one.inode == other.inode;
    }
};

fn infoAt(path: *const Path) sys.Error!sys.FileInfo {
    const file = try sys.openInfo(path.text());
    defer sys.close(file);
    return sys.fileInfo(file);
}

/// Keeps two of us from judging and replacing the same file at once. Best effort: whoever may not
/// read the folder does without.
fn lockFolder(path: []const u8) ?i32 {
    var buffer: [abi.path_bytes_max + 1]u8 = undefined;
    const name = std.fs.path.dirname(path) orelse ".";
    const folder = std.fmt.bufPrintSentinel(&buffer, "{s}", .{name}, 0) catch return null;
    const fd = sys.openDirectory(folder) catch return null;
    for (0..lock_attempts) |_| {
        sys.lock(fd) catch {
            if (sys.lastErrno() != sys.errno_again) break;
            sys.sleep(lock_pause_ns);
            continue;
        };
        return fd;
    }
    sys.close(fd);
    return null;
}

/// Anyone who may read the folder can hold its lock: half a second is all we wait.
const lock_attempts = 100;
const lock_pause_ns = 5_000_000;

/// Removes a socket file that nobody listens behind. Returns also when there is none any more.
fn removeStale(path: Path) Error!void {
    const file = sys.openInfo(path.text()) catch return gone();
    // While it is open its number cannot be used again.
    defer sys.close(file);
    const info = try sys.fileInfo(file);
    if (info.kind != .socket) return sys.fail(sys.errno_not_socket);
    const probe = try sys.socket();
    defer sys.close(probe);
    if (sys.connect(probe, path.bytes())) |_| return error.Busy else |_| switch (sys.lastErrno()) {
        sys.errno_refused => {},
        sys.errno_absent => return,
        sys.errno_again, sys.errno_wrong_type => return error.Busy,
        else => return error.System,
    }
    const present = infoAt(&path) catch return gone();
    if (!Identity.of(present).equals(.of(info))) return;
    sys.unlink(path.text()) catch return gone();
}

fn gone() sys.Error!void {
    if (sys.lastErrno() != sys.errno_absent) return error.System;
}

const testing = std.testing;

const TestFolder = struct {
    path: [64]u8,
    len: usize,

    fn init() !TestFolder {
        var folder: TestFolder = .{ .path = undefined, .len = 0 };
        const name = try std.fmt.bufPrintSentinel(&folder.path, "/tmp/vring-test-{d}-{d}", .{
            sys.threadId(), sys.nanoseconds(),
        }, 0);
        folder.len = name.len;
        try testing.expectEqual(0, std.c.mkdir(name, 0o700));
        return folder;
    }

    fn deinit(folder: *TestFolder) void {
        _ = std.c.rmdir(folder.path[0..folder.len :0]);
    }

    fn join(folder: *const TestFolder, buffer: []u8, name: []const u8) [:0]const u8 {
        return std.fmt.bufPrintSentinel(buffer, "{s}/{s}", .{ folder.path[0..folder.len], name }, 0) catch unreachable;
    }
};

test "the file has the mode that was asked for, whatever the umask, and goes with the listener" {
    var folder = try TestFolder.init();
    defer folder.deinit();
    var buffer: [100]u8 = undefined;
    const path = folder.join(&buffer, "a.sock");
    for ([_]u32{ 0o600, 0o666, 0o770 }) |mode| {
        var listener = try Listener.open(path, mode);
        const own = try Path.init(path);
        try testing.expectEqual(mode, (try infoAt(&own)).mode);
        listener.close();
        try testing.expectError(error.System, infoAt(&own));
        try testing.expectEqual(sys.errno_absent, sys.lastErrno());
    }
}

test "a stale socket file is replaced, a live one refused, another file left alone" {
    var folder = try TestFolder.init();
    defer folder.deinit();
    var buffer: [100]u8 = undefined;
    const path = folder.join(&buffer, "a.sock");
    const first = try Listener.open(path, 0o600);
    try testing.expectError(error.Busy, Listener.open(path, 0o600));
    sys.close(first.socket);
    var second = try Listener.open(path, 0o600);
    const client = try sys.socket();
    defer sys.close(client);
    try sys.connect(client, path);
    second.close();

    const fd = std.c.open(path, .{ .ACCMODE = .WRONLY, .CREAT = true }, @as(c_uint, 0o600));
    try testing.expect(fd >= 0);
    sys.close(fd);
    try testing.expectError(error.System, Listener.open(path, 0o600));
    try testing.expectEqual(sys.errno_not_socket, sys.lastErrno());
    try sys.unlink(path);
}

const Racer = struct {
    path: [:0]const u8,
    won: ?Listener = null,
    lost: ?Error = null,

    fn race(racer: *Racer) void {
        if (Listener.open(racer.path, 0o600)) |listener| racer.won = listener else |reason| racer.lost = reason;
    }
};

test "of many at once over a stale file one listens, and the others are told that it does" {
    var folder = try TestFolder.init();
    defer folder.deinit();
    var buffer: [100]u8 = undefined;
    const path = folder.join(&buffer, "a.sock");
    for (0..50) |_| {
        const stale = try Listener.open(path, 0o600);
        sys.close(stale.socket);
        var racers: [8]Racer = @splat(.{ .path = path });
        var threads: [racers.len]std.Thread = undefined;
        for (&threads, &racers) |*thread, *racer| thread.* = try std.Thread.spawn(.{}, Racer.race, .{racer});
        for (threads) |thread| thread.join();
        var winners: usize = 0;
        for (&racers) |*racer| {
            if (racer.won == null) {
                try testing.expectEqual(error.Busy, racer.lost.?);
                continue;
            }
            winners += 1;
            const client = try sys.socket();
            defer sys.close(client);
            try sys.connect(client, path);
            racer.won.?.close();
        }
        try testing.expectEqual(1, winners);
    }
}

test "a listener whose file was replaced leaves the new one alone" {
    var folder = try TestFolder.init();
    defer folder.deinit();
    var buffer: [100]u8 = undefined;
    const path = folder.join(&buffer, "a.sock");
    var first = try Listener.open(path, 0o600);
    try sys.unlink(path);
    var second = try Listener.open(path, 0o600);
    first.close();
    const client = try sys.socket();
    defer sys.close(client);
    try sys.connect(client, path);
    second.close();
}

test "impossible paths are named by error" {
    try testing.expectError(error.InvalidArgument, Listener.open("", 0o600));
    try testing.expectError(error.InvalidArgument, Listener.open("a\x00b", 0o600));
    try testing.expectError(error.LimitReached, Listener.open(&@as([108]u8, @splat('a')), 0o600));
    try testing.expectError(error.System, Listener.open("/nowhere/at/all/a.sock", 0o600));
    try testing.expectEqual(sys.errno_absent, sys.lastErrno());
    try testing.expectError(error.System, Listener.open("/dev/null/a.sock", 0o600));
}

test "a folder that someone else holds locked delays, and does not block" {
    var folder = try TestFolder.init();
    defer folder.deinit();
    const holder = try sys.openDirectory(folder.path[0..folder.len :0]);
    defer sys.close(holder);
    try sys.lock(holder);
    var buffer: [100]u8 = undefined;
    var listener = try Listener.open(folder.join(&buffer, "a.sock"), 0o600);
    listener.close();
}
