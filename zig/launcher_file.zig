//! Files and directories as the launcher needs them: thin over the system calls, never following a symbolic
//! link in the last part of a path, with errors in as many kinds as the launcher tells apart.

const std = @import("std");
const linux = std.os.linux;

pub const Fd = i32;
/// Stands for the working directory, and for nothing where the path is absolute.
pub const here: Fd = linux.AT.FDCWD;

pub const path_bytes_max = 4096;

pub const Error = error{
    Absent,
    Denied,
    /// Not a directory where one must be; a symbolic link is none.
    NotDirectory,
    ReadOnly,
    Full,
    /// Someone else holds the lock.
    Busy,
    Unsupported,
    Failed,
};

fn check(result: usize) Error!usize {
    return switch (linux.errno(result)) {
        .SUCCESS => result,
        .NOENT => error.Absent,
        .ACCES, .PERM => error.Denied,
        .NOTDIR, .LOOP => error.NotDirectory,
        .ROFS => error.ReadOnly,
        .NOSPC, .DQUOT, .FBIG, .NOMEM => error.Full,
        .AGAIN => error.Busy,
        .INVAL, .OPNOTSUPP, .NOLCK, .NOSYS => error.Unsupported,
        else => error.Failed,
    };
}

fn checkFd(result: usize) Error!Fd {
    return @intCast(try check(result));
}

pub fn close(fd: Fd) void {
    _ = linux.close(fd);
}

pub fn openDirectory(at: Fd, path: [*:0]const u8) Error!Fd {
    return checkFd(linux.openat(at, path, .{ .DIRECTORY = true, .NOFOLLOW = true, .CLOEXEC = true }, 0));
}

/// For reading. A pipe does not hold it up.
pub fn openFile(at: Fd, path: [*:0]const u8) Error!Fd {
    return checkFd(linux.openat(at, path, .{ .NOFOLLOW = true, .NONBLOCK = true, .CLOEXEC = true }, 0));
}

/// A file that was not there before, for writing.
pub fn createFile(at: Fd, path: [*:0]const u8) Error!Fd {
    const flags: linux.O = .{ .ACCMODE = .WRONLY, .CREAT = true, .EXCL = true, .NOFOLLOW = true, .CLOEXEC = true };
    return checkFd(linux.openat(at, path, flags, 0o600));
}

/// For its owner alone. That it exists already is as good; whatever else went wrong shows when it is opened.
pub fn makeDirectory(at: Fd, path: [*:0]const u8) void {
    _ = linux.mkdirat(at, path, 0o700);
}

/// Makes what is missing of a path.
pub fn makeDirectories(path: [:0]const u8) void {
    if (path.len >= path_bytes_max) return;
    var prefix: [path_bytes_max]u8 = undefined;
    for (path, 0..) |byte, index| {
        prefix[index] = 0;
        if (byte == '/' and index > 0) makeDirectory(here, prefix[0..index :0]);
        prefix[index] = byte;
    }
    makeDirectory(here, path);
}

pub const Info = struct {
    kind: enum { file, directory, other },
    owner: u32,
    /// Permission bits alone.
    mode: u16,
    bytes: u64,
    modified_seconds: i64,
    inode: u64,
};

pub fn info(fd: Fd) Error!Info {
    return infoAt(fd, "", linux.AT.EMPTY_PATH);
}

/// Of what `path` itself names, were it a symbolic link.
pub fn infoOf(at: Fd, path: [*:0]const u8) Error!Info {
    return infoAt(at, path, linux.AT.SYMLINK_NOFOLLOW);
}

fn infoAt(at: Fd, path: [*:0]const u8, flags: u32) Error!Info {
    var found: linux.Statx = undefined;
    _ = try check(linux.statx(at, path, flags, .BASIC_STATS, &found));
    return .{
        .kind = switch (found.mode & linux.S.IFMT) {
            linux.S.IFREG => .file,
            linux.S.IFDIR => .directory,
            else => .other,
        },
        .owner = found.uid,
        .mode = found.mode & 0o7777,
        .bytes = found.size,
        .modified_seconds = found.mtime.sec,
        .inode = found.ino,
    };
}

pub fn writeAll(fd: Fd, bytes: []const u8) Error!void {
    var rest = bytes;
    while (rest.len > 0) {
        const result = linux.write(fd, rest.ptr, rest.len);
        if (linux.errno(result) == .INTR) continue;
        rest = rest[try check(result)..];
    }
}

pub fn setMode(fd: Fd, mode: u16) Error!void {
    _ = try check(linux.fchmod(fd, mode));
}

pub fn setModified(fd: Fd, seconds: i64) Error!void {
    const time: linux.timespec = .{ .sec = seconds, .nsec = 0 };
    _ = try check(linux.futimens(fd, &.{ time, time }));
}

/// Sets the time of last change to now, where that is allowed.
pub fn touch(fd: Fd) void {
    _ = linux.futimens(fd, null);
}

/// Returns when the content is on the disk.
pub fn sync(fd: Fd) Error!void {
    _ = try check(linux.fdatasync(fd));
}

/// Takes the place of whatever file is called `to`.
pub fn rename(at: Fd, from: [*:0]const u8, to: [*:0]const u8) Error!void {
    _ = try check(linux.renameat(at, from, at, to));
}

pub fn remove(at: Fd, path: [*:0]const u8) Error!void {
    const result = linux.unlinkat(at, path, 0);
    if (linux.errno(result) == .ISDIR) return error.Failed;
    _ = try check(result);
}

/// Removes a directory and what is in it, as far as that is possible, and follows no link.
pub fn removeTree(at: Fd, path: [*:0]const u8, depth_max: u8) void {
    emptyDirectory(at, path, depth_max) catch {};
    _ = linux.unlinkat(at, path, linux.AT.REMOVEDIR);
}

fn emptyDirectory(at: Fd, path: [*:0]const u8, depth_max: u8) Error!void {
    const directory = try openDirectory(at, path);
    defer close(directory);
    var names: Names = .{ .directory = directory };
    while (try names.next()) |name| {
        remove(directory, name) catch if (depth_max > 0) removeTree(directory, name, depth_max - 1);
    }
}

/// The names in a directory, without `.` and `..`.
pub const Names = struct {
    directory: Fd,
    buffer: [2048]u8 align(8) = undefined,
    at: usize = 0,
    filled: usize = 0,

    /// Valid until the next call.
    pub fn next(names: *Names) Error!?[:0]const u8 {
        while (true) {
            if (names.at == names.filled) {
                names.filled = try check(linux.getdents64(names.directory, &names.buffer, names.buffer.len));
                names.at = 0;
                if (names.filled == 0) return null;
            }
            const entry: *const linux.dirent64 = @ptrCast(@alignCast(names.buffer[names.at..].ptr));
            names.at += entry.reclen;
            const name = std.mem.span(@as([*:0]const u8, @ptrCast(&entry.name)));
            if (!std.mem.eql(u8, name, ".") and !std.mem.eql(u8, name, "..")) return name;
        }
    }
};

pub const Lock = enum(i32) { shared = 1, exclusive = 2 };

/// Locks a file or directory until the last copy of `fd` is closed. `error.Busy`: another holds it.
pub fn lock(fd: Fd, kind: Lock) Error!void {
    const without_waiting = 4;
    _ = try check(linux.flock(fd, @backingInt(kind) | without_waiting));
}

/// Lets a program that takes over this process have `fd` too.
pub fn keepOnExec(fd: Fd) Error!void {
    _ = try check(linux.fcntl(fd, linux.F.SETFD, 0));
}

/// The absolute path, without links, of an open file or directory.
pub fn pathOf(fd: Fd, buffer: *[path_bytes_max]u8) Error![:0]const u8 {
    var link: [32]u8 = undefined;
    return readLink(descriptorPath(fd, &link), buffer);
}

pub fn readLink(path: [*:0]const u8, buffer: *[path_bytes_max]u8) Error![:0]const u8 {
    const bytes = try check(linux.readlinkat(here, path, buffer, buffer.len));
    if (bytes == buffer.len) return error.Failed;
    buffer[bytes] = 0;
    return buffer[0..bytes :0];
}

/// A path that names the file behind `fd`, for this process and for the program that takes it over.
pub fn descriptorPath(fd: Fd, buffer: *[32]u8) [:0]const u8 {
    return std.fmt.bufPrintSentinel(buffer, "/proc/self/fd/{d}", .{fd}, 0) catch unreachable;
}

/// The content of a file that is opened by following links.
pub fn map(path: [*:0]const u8) Error![]align(std.heap.page_size_min) const u8 {
    const fd = try checkFd(linux.openat(here, path, .{ .CLOEXEC = true }, 0));
    defer close(fd);
    const bytes: usize = @intCast((try info(fd)).bytes);
    const address = try check(linux.mmap(null, bytes, .{ .READ = true }, .{ .TYPE = .PRIVATE }, fd, 0));
    return @as([*]align(std.heap.page_size_min) const u8, @ptrFromInt(address))[0..bytes];
}

/// A file in memory. `error.Denied`: it may not be executable here (vm.memfd_noexec=2).
pub fn memoryFile(name: [*:0]const u8, executable: bool) Error!Fd {
    const flags = linux.MFD.CLOEXEC | linux.MFD.ALLOW_SEALING;
    const not_executable_sealed = 8;
    const is_executable = 16;
    const kind: u32 = if (executable) is_executable else not_executable_sealed;
    return checkFd(linux.memfd_create(name, flags | kind)) catch |err| {
        // Kernels before 6.3 know neither kind.
        return if (err == error.Unsupported) checkFd(linux.memfd_create(name, flags)) else err;
    };
}

/// Makes what a memory file holds final, and returns the file opened for reading; `fd` is closed in any case.
/// A file that is open for writing could not be executed.
pub fn finishMemoryFile(fd: Fd) Error!Fd {
    defer close(fd);
    const add_seals = 1033;
    const seal_all = 1 | 2 | 4 | 8;
    _ = try check(linux.fcntl(fd, add_seals, seal_all));
    var link: [32]u8 = undefined;
    return checkFd(linux.openat(here, descriptorPath(fd, &link), .{ .CLOEXEC = true }, 0));
}

/// Replaces this process. Returns only when that fails. `path` "" means the file `at` itself.
pub fn execute(
    at: Fd,
    path: [*:0]const u8,
    arguments: [*:null]const ?[*:0]const u8,
    environment: [*:null]const ?[*:0]const u8,
) Error!noreturn {
    const flags: linux.EXECVEAT = .{ .SYMLINK_NOFOLLOW = path[0] != 0, .EMPTY_PATH = path[0] == 0 };
    _ = try check(linux.execveat(at, path, arguments, environment, flags));
    unreachable;
}

/// Whether programs on the file system of `fd` may be executed, as far as its mount says.
pub fn mayExecute(fd: Fd) bool {
    var status: StatFs = undefined;
    if (linux.errno(linux.syscall2(.fstatfs, @as(u32, @bitCast(fd)), @intFromPtr(&status))) != .SUCCESS) return true;
    const no_exec = 8;
    return status.flags & no_exec == 0;
}

/// struct statfs of the 64-bit architectures.
const StatFs = extern struct {
    before: [10]u64,
    flags: u64,
    spare: [4]u64,

    comptime {
        std.debug.assert(@sizeOf(StatFs) == 120 and @offsetOf(StatFs, "flags") == 80);
    }
};

pub fn effectiveUser() u32 {
    return linux.geteuid();
}

pub fn sleepMilliseconds(count: u32) void {
    const time: linux.timespec = .{ .sec = 0, .nsec = @as(isize, count) * 1_000_000 };
    _ = linux.nanosleep(&time, null);
}

pub fn randomBytes(bytes: []u8) void {
    _ = linux.getrandom(bytes.ptr, bytes.len, 0);
}

/// So that no file opened later is taken for input, output or errors of the program, where these were closed.
pub fn openStandardStreams() void {
    const null_device = "/dev/null";
    for (0..3) |fd| {
        if (linux.errno(linux.fcntl(@intCast(fd), linux.F.GETFD, 0)) != .BADF) continue;
        _ = linux.openat(here, null_device, .{ .ACCMODE = .RDWR }, 0);
    }
}
