//! The system calls that libvring makes, and the only place that knows `std.os.linux`, which
//! changes with every Zig release.
//!
//! A call that fails returns `error.System`; `lastErrno` then says why, on the same thread.

const std = @import("std");
const builtin = @import("builtin");
const linux = std.os.linux;

pub const Error = error{System};

threadlocal var errno_value: u16 = 0;

pub fn lastErrno() u16 {
    return errno_value;
}

pub const errno_again: u16 = @backingInt(linux.E.AGAIN);
pub const errno_interrupted: u16 = @backingInt(linux.E.INTR);
pub const errno_refused: u16 = @backingInt(linux.E.CONNREFUSED);
pub const errno_in_use: u16 = @backingInt(linux.E.ADDRINUSE);
pub const errno_absent: u16 = @backingInt(linux.E.NOENT);

fn check(result: usize) Error!usize {
    const signed: isize = @bitCast(result);
    if (signed >= 0 or signed < -4095) return result;
    errno_value = @intCast(-signed);
    return error.System;
}

fn checkFd(result: usize) Error!i32 {
    return @intCast(try check(result));
}

// Memory.

pub const Map = []align(std.heap.page_size_min) u8;

/// `bytes` of a file, readable and writable, shared with its other users.
pub fn mapShared(fd: i32, offset: u64, bytes: u64) Error!Map {
    const address = try check(linux.mmap(
        null,
        @intCast(bytes),
        .{ .READ = true, .WRITE = true },
        .{ .TYPE = .SHARED, .NORESERVE = true },
        fd,
        @intCast(offset),
    ));
    const pointer: [*]align(std.heap.page_size_min) u8 = @ptrFromInt(address);
    return pointer[0..@intCast(bytes)];
}

pub fn unmap(map: Map) void {
    _ = linux.munmap(map.ptr, map.len);
}

/// Puts zero pages in the place of whatever is mapped there. Safe in a signal handler.
pub fn mapZeroPages(start: usize, bytes: usize) bool {
    const result = linux.mmap(
        @ptrFromInt(start),
        bytes,
        .{ .READ = true, .WRITE = true },
        .{ .TYPE = .PRIVATE, .FIXED = true, .ANONYMOUS = true, .NORESERVE = true },
        -1,
        0,
    );
    return linux.errno(result) == .SUCCESS;
}

/// An anonymous file of `bytes`, sealed against shrinking, whose pages are taken as they are used.
pub fn memoryFile(name: [*:0]const u8, bytes: u64) Error!i32 {
    const fd = try checkFd(linux.memfd_create(name, linux.MFD.CLOEXEC | linux.MFD.ALLOW_SEALING));
    errdefer close(fd);
    _ = try check(linux.ftruncate(fd, @intCast(bytes)));
    _ = try check(linux.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    return fd;
}

const F_ADD_SEALS = 1033;
const F_SEAL_SHRINK = 2;

// Files.

pub fn close(fd: i32) void {
    _ = linux.close(fd);
}

pub const FileKind = enum { regular, socket, pipe, directory, other };

pub const FileInfo = struct {
    kind: FileKind,
    regular: bool,
    size: u64,
    /// hugetlbfs names the size of its pages here.
    block_bytes: u64,
    device: u64,
    inode: u64,
};

pub fn fileInfo(fd: i32) Error!FileInfo {
    var info: linux.Statx = undefined;
    const empty_path = 0x1000;
    _ = try check(linux.statx(fd, "", empty_path, .BASIC_STATS, &info));
    const kind: FileKind = switch (info.mode & linux.S.IFMT) {
        linux.S.IFREG => .regular,
        linux.S.IFSOCK => .socket,
        linux.S.IFIFO => .pipe,
        linux.S.IFDIR => .directory,
        else => .other,
    };
    return .{
        .kind = kind,
        .regular = kind == .regular,
        .size = info.size,
        .block_bytes = info.blksize,
        .device = @as(u64, info.dev_major) << 32 | info.dev_minor,
        .inode = info.ino,
    };
}

/// Whether an fd is an eventfd: the kernel says so only in the name it gives it.
pub fn isEventfd(fd: i32) bool {
    var path_buffer: [32]u8 = undefined;
    var target: [32]u8 = undefined;
    const path = std.fmt.bufPrintSentinel(&path_buffer, "/proc/self/fd/{d}", .{fd}, 0) catch return false;
    const len = check(linux.readlink(path, &target, target.len)) catch return false;
    return std.mem.startsWith(u8, target[0..len], "anon_inode:[eventfd]");
}

/// Whoever else holds the file can undo this.
pub fn setNonblocking(fd: i32) Error!void {
    const nonblocking = 0o4000;
    const flags = try check(linux.fcntl(fd, linux.F.GETFL, 0));
    if (flags & nonblocking == 0) _ = try check(linux.fcntl(fd, linux.F.SETFL, flags | nonblocking));
}

// Eventfds.

pub fn eventfd() Error!i32 {
    return checkFd(linux.eventfd(0, linux.EFD.CLOEXEC | linux.EFD.NONBLOCK));
}

/// A full counter is as good as a signal: whoever waits for it is woken already. False: the write
/// blocked, which only a peer that made the fd blocking and filled it can bring about, until somebody
/// poked this thread.
pub fn eventfdSignal(fd: i32) bool {
    const one: u64 = 1;
    return linux.errno(linux.write(fd, @ptrCast(&one), 8)) != .INTR;
}

/// Empties the counter and returns it; 0 when it was empty.
pub fn eventfdDrain(fd: i32) u64 {
    var count: u64 = 0;
    const read = linux.read(fd, @ptrCast(&count), 8);
    return if (linux.errno(read) == .SUCCESS and read == 8) count else 0;
}

// Epoll.

pub const Event = linux.epoll_event;
pub const event_in: u32 = linux.EPOLL.IN;
pub const event_out: u32 = linux.EPOLL.OUT;
pub const event_hangup: u32 = linux.EPOLL.HUP | linux.EPOLL.ERR | linux.EPOLL.RDHUP;
/// Tells of each change once, so that what is watched need not be read.
pub const event_edge: u32 = linux.EPOLL.ET;

pub fn epoll() Error!i32 {
    return checkFd(linux.epoll_create1(linux.EPOLL.CLOEXEC));
}

pub fn epollAdd(set: i32, fd: i32, events: u32, data: u64) Error!void {
    var event: Event = .{ .events = events, .data = .{ .u64 = data } };
    _ = try check(linux.epoll_ctl(set, linux.EPOLL.CTL_ADD, fd, &event));
}

pub fn epollChange(set: i32, fd: i32, events: u32, data: u64) Error!void {
    var event: Event = .{ .events = events, .data = .{ .u64 = data } };
    _ = try check(linux.epoll_ctl(set, linux.EPOLL.CTL_MOD, fd, &event));
}

pub fn epollRemove(set: i32, fd: i32) void {
    _ = linux.epoll_ctl(set, linux.EPOLL.CTL_DEL, fd, null);
}

/// An interrupted wait is one without events. `timeout_ms` -1: for ever.
pub fn epollWait(set: i32, events: []Event, timeout_ms: i32) []Event {
    const count = check(linux.epoll_wait(set, events.ptr, @intCast(events.len), timeout_ms)) catch 0;
    return events[0..count];
}

// Threads and time.

pub fn yieldCpu() void {
    _ = linux.sched_yield();
}

/// Binds the calling thread to one CPU.
pub fn bindToCpu(cpu: u32) Error!void {
    var set: linux.cpu_set_t = @splat(0);
    const bits = @bitSizeOf(usize);
    if (cpu >= bits * set.len) {
        errno_value = @backingInt(linux.E.INVAL);
        return error.System;
    }
    set[cpu / bits] = @as(usize, 1) << @intCast(cpu % bits);
    _ = try check(linux.syscall3(.sched_setaffinity, 0, @sizeOf(linux.cpu_set_t), @intFromPtr(&set)));
}

pub fn threadId() i32 {
    return linux.gettid();
}

/// Names the calling thread, as `top -H` shows it; at most 15 bytes.
pub fn nameThread(name: [*:0]const u8) void {
    _ = linux.prctl(@backingInt(linux.PR.SET_NAME), @intFromPtr(name), 0, 0, 0);
}

/// Keeps signals of the process away from the calling thread; faults of its own and `poke` still
/// reach it.
pub fn blockSignals() void {
    const action: SignalAction = .{
        .handler = .{ .handler = onPoke },
        .mask = linux.sigemptyset(),
        .flags = 0,
    };
    _ = linux.sigaction(poke_signal, &action, null);
    var set = linux.sigfillset();
    inline for (.{ .BUS, .SEGV, .FPE, .ILL, .TRAP, poke_signal }) |signal| linux.sigdelset(&set, signal);
    _ = linux.sigprocmask(linux.SIG.BLOCK, &set, null);
}

/// A real-time signal that neither libc nor V8 uses.
const poke_signal: linux.SIG = @enumFromInt(62);

fn onPoke(_: linux.SIG) callconv(.c) void {}

/// Ends a blocked system call of another thread of ours.
pub fn poke(thread_id: i32) void {
    _ = linux.tgkill(linux.getpid(), thread_id, poke_signal);
}

pub fn nanoseconds() u64 {
    var time: std.c.timespec = undefined;
    _ = std.c.clock_gettime(.MONOTONIC, &time);
    return @as(u64, @intCast(time.sec)) * 1_000_000_000 + @as(u64, @intCast(time.nsec));
}

/// CPU time that the calling thread has had.
pub fn threadNanoseconds() u64 {
    var time: std.c.timespec = undefined;
    _ = std.c.clock_gettime(.THREAD_CPUTIME_ID, &time);
    return @as(u64, @intCast(time.sec)) * 1_000_000_000 + @as(u64, @intCast(time.nsec));
}

/// A counter of constant rate that is cheap to read.
pub inline fn cycles() u64 {
    if (builtin.cpu.arch == .x86_64) {
        var low: u32 = undefined;
        var high: u32 = undefined;
        asm volatile ("rdtsc"
            : [low] "={eax}" (low),
              [high] "={edx}" (high),
        );
        return @as(u64, high) << 32 | low;
    }
    return asm volatile ("mrs %[count], cntvct_el0"
        : [count] "=r" (-> u64),
    );
}

/// Sleeps while `*word` is `expected`, at most `timeout_ns`; may wake early.
pub fn futexWait(word: *const std.atomic.Value(u32), expected: u32, timeout_ns: u64) void {
    const timeout: linux.timespec = .{
        .sec = @intCast(timeout_ns / 1_000_000_000),
        .nsec = @intCast(timeout_ns % 1_000_000_000),
    };
    _ = linux.futex_4arg(&word.raw, .{ .cmd = .WAIT, .private = true }, expected, &timeout);
}

pub fn futexWakeAll(word: *const std.atomic.Value(u32)) void {
    _ = linux.futex_3arg(&word.raw, .{ .cmd = .WAKE, .private = true }, std.math.maxInt(i32));
}

// SIGBUS.

pub const Signal = linux.SIG;
pub const SignalInfo = linux.siginfo_t;
pub const SignalAction = linux.Sigaction;
pub const SignalHandler = linux.Sigaction.sigaction_fn;

/// Installs a handler for SIGBUS and returns what was there before.
pub fn handleBusError(handler: SignalHandler) SignalAction {
    var previous: SignalAction = undefined;
    const action: SignalAction = .{
        .handler = .{ .sigaction = handler },
        .mask = linux.sigemptyset(),
        .flags = linux.SA.SIGINFO | linux.SA.RESTART | linux.SA.ONSTACK,
    };
    _ = linux.sigaction(.BUS, &action, &previous);
    return previous;
}

pub fn faultAddress(info: *const SignalInfo) usize {
    return @intFromPtr(info.fields.sigfault.addr);
}

/// Hands a signal to an earlier handler; to the default action where there was none.
pub fn chainSignal(previous: *const SignalAction, signal: Signal, info: *const SignalInfo, context: ?*anyopaque) void {
    const handler = previous.handler.handler;
    if (handler == linux.SIG.DFL or handler == linux.SIG.IGN) {
        const action: SignalAction = .{
            .handler = .{ .handler = linux.SIG.DFL },
            .mask = linux.sigemptyset(),
            .flags = 0,
        };
        // The faulting instruction runs again, and this time the fault ends the process.
        _ = linux.sigaction(signal, &action, null);
        return;
    }
    if (previous.flags & linux.SA.SIGINFO != 0) {
        previous.handler.sigaction.?(signal, info, context);
    } else {
        handler.?(signal);
    }
}
