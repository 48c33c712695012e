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
pub const errno_no_memory: u16 = @backingInt(linux.E.NOMEM);
pub const errno_bad_fd: u16 = @backingInt(linux.E.BADF);
pub const errno_broken_pipe: u16 = @backingInt(linux.E.PIPE);
pub const errno_reset: u16 = @backingInt(linux.E.CONNRESET);
pub const errno_aborted: u16 = @backingInt(linux.E.CONNABORTED);
pub const errno_wrong_type: u16 = @backingInt(linux.E.PROTOTYPE);
pub const errno_not_socket: u16 = @backingInt(linux.E.NOTSOCK);

fn check(result: usize) Error!usize {
    const signed: isize = @bitCast(result);
    if (signed >= 0 or signed < -4095) return result;
    errno_value = @intCast(-signed);
    return error.System;
}

/// For a failure that was found without a call.
pub fn fail(errno: u16) Error {
    errno_value = errno;
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

/// Zeroed memory of our own, whose pages are taken as they are used.
pub fn mapPrivate(bytes: usize) Error!Map {
    const address = try check(linux.mmap(
        null,
        bytes,
        .{ .READ = true, .WRITE = true },
        .{ .TYPE = .PRIVATE, .ANONYMOUS = true, .NORESERVE = true },
        -1,
        0,
    ));
    const pointer: [*]align(std.heap.page_size_min) u8 = @ptrFromInt(address);
    return pointer[0..bytes];
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

// Page faults that others answer: userfaultfd(2).

const userfault = struct {
    const user_mode_only = 1;
    const version = 0xaa;
    const missing_hugetlbfs = 1 << 4;
    const missing_shmem = 1 << 5;
    const missing = 1;
    const api = 0xc018aa3f;
    const register = 0xc020aa00;
    const unregister = 0x8010aa01;
    const wake = 0x8010aa02;
    const copy = 0xc028aa03;
};

const UserfaultApi = extern struct { version: u64, features: u64, ioctls: u64 = 0 };
const UserfaultRange = extern struct { start: u64, bytes: u64 };
const UserfaultRegister = extern struct { range: UserfaultRange, mode: u64, ioctls: u64 = 0 };
const UserfaultCopy = extern struct { to: u64, from: u64, bytes: u64, mode: u64 = 0, copied: i64 = 0 };

/// For faults of user mode, in shared files of pages of any size. Needs Linux 5.11, and no privilege.
pub fn openUserfault() Error!i32 {
    const O: linux.O = .{ .CLOEXEC = true, .NONBLOCK = true };
    const flags = @as(u32, @bitCast(O)) | userfault.user_mode_only;
    const fd = try checkFd(linux.syscall1(.userfaultfd, flags));
    errdefer close(fd);
    var asked: UserfaultApi = .{
        .version = userfault.version,
        .features = userfault.missing_hugetlbfs | userfault.missing_shmem,
    };
    try ioctl(fd, userfault.api, @intFromPtr(&asked));
    return fd;
}

fn rangeOf(map: Map) UserfaultRange {
    return .{ .start = @intFromPtr(map.ptr), .bytes = map.len };
}

/// Pages that the file lacks are asked for from now on.
pub fn registerUserfault(fd: i32, map: Map) Error!void {
    var asked: UserfaultRegister = .{ .range = rangeOf(map), .mode = userfault.missing };
    try ioctl(fd, userfault.register, @intFromPtr(&asked));
}

/// Who sleeps there wakes, and the page is made as usual.
pub fn unregisterUserfault(fd: i32, map: Map) void {
    var range = rangeOf(map);
    ioctl(fd, userfault.unregister, @intFromPtr(&range)) catch {};
}

/// Who sleeps there wakes, and looks once more.
pub fn wakeUserfault(fd: i32, map: Map) void {
    var range = rangeOf(map);
    ioctl(fd, userfault.wake, @intFromPtr(&range)) catch {};
}

/// Puts a page where one is missing. Who sleeps there wakes.
pub fn fillUserfault(fd: i32, to: [*]u8, page: []const u8) Error!void {
    var asked: UserfaultCopy = .{ .to = @intFromPtr(to), .from = @intFromPtr(page.ptr), .bytes = page.len };
    try ioctl(fd, userfault.copy, @intFromPtr(&asked));
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
    /// Permission bits.
    mode: u32,
    size: u64,
    /// A file with holes has fewer than `size`.
    allocated_bytes: u64,
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
        .mode = info.mode & 0o7777,
        .size = info.size,
        .allocated_bytes = info.blocks * 512,
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

/// The file at `path`, a link not followed, for `fileInfo` and `changeModeOfOpened` alone.
pub fn openInfo(path: [*:0]const u8) Error!i32 {
    return checkFd(linux.open(path, .{ .PATH = true, .NOFOLLOW = true, .CLOEXEC = true }, 0));
}

/// To be read.
pub fn open(path: [*:0]const u8) Error!i32 {
    return checkFd(linux.open(path, .{ .NONBLOCK = true, .CLOEXEC = true }, 0));
}

/// Ours alone to read and write, made where there is none.
pub fn openOwn(path: [*:0]const u8) Error!i32 {
    return checkFd(linux.open(path, .{ .ACCMODE = .RDWR, .CREAT = true, .NOFOLLOW = true, .CLOEXEC = true }, 0o600));
}

pub fn resize(fd: i32, bytes: u64) Error!void {
    _ = try check(linux.ftruncate(fd, @intCast(bytes)));
}

/// Makes room for a part of a file, whose size grows by it where it must.
pub fn allocate(fd: i32, offset: u64, bytes: u64) Error!void {
    _ = try check(linux.fallocate(fd, 0, @intCast(offset), @intCast(bytes)));
}

/// From where the last one ended; 0 is the end.
pub fn readFile(fd: i32, bytes: []u8) Error!usize {
    return check(linux.read(fd, bytes.ptr, bytes.len));
}

/// Entries of a directory, for `nextName`; empty is the end.
pub fn readDirectory(fd: i32, bytes: []align(8) u8) Error![]align(8) u8 {
    return bytes[0..try check(linux.getdents64(fd, bytes.ptr, @intCast(bytes.len)))];
}

/// Takes the first entry off and returns its name.
pub fn nextName(entries: *[]align(8) u8) []const u8 {
    const entry: *linux.dirent64 = @ptrCast(entries.ptr);
    const name: [*:0]const u8 = @ptrCast(&entry.name);
    entries.* = @alignCast(entries.*[entry.reclen..]);
    return std.mem.span(name);
}

pub fn openDirectory(path: [*:0]const u8) Error!i32 {
    return checkFd(linux.open(path, .{ .DIRECTORY = true, .CLOEXEC = true }, 0));
}

/// Ours until the fd is closed; fails with `errno_again` while another holds it.
pub fn lock(fd: i32) Error!void {
    const exclusive_nonblocking = 2 | 4;
    _ = try check(linux.flock(fd, exclusive_nonblocking));
}

pub fn unlink(path: [*:0]const u8) Error!void {
    _ = try check(linux.unlink(path));
}

/// Of a socket that is not bound yet: the file that binding makes has these permission bits, less the umask.
pub fn changeMode(fd: i32, mode: u32) Error!void {
    _ = try check(linux.fchmod(fd, @intCast(mode)));
}

/// Of a file opened by `openInfo`.
pub fn changeModeOfOpened(fd: i32, mode: u32) Error!void {
    var buffer: [32]u8 = undefined;
    const path = std.fmt.bufPrintSentinel(&buffer, "/proc/self/fd/{d}", .{fd}, 0) catch unreachable;
    _ = try check(linux.chmod(path, @intCast(mode)));
}

pub fn duplicate(fd: i32) Error!i32 {
    const duplicate_close_on_exec = 1030;
    return checkFd(linux.fcntl(fd, duplicate_close_on_exec, 0));
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
/// Tells once, and then of nothing, hang-ups included, until `epollChange`.
pub const event_once: u32 = linux.EPOLL.ONESHOT;

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

// Devices and interfaces.

/// Of all kinds of packets, none yet: see `bindPacket`.
pub fn packetSocket() Error!i32 {
    return checkFd(linux.socket(linux.AF.PACKET, linux.SOCK.RAW | socket_flags, 0));
}

pub fn bindPacket(fd: i32, interface_index: i32) Error!void {
    const every_protocol = 3;
    const address: linux.sockaddr.ll = .{
        .protocol = std.mem.nativeToBig(u16, every_protocol),
        .ifindex = interface_index,
        .hatype = 0,
        .pkttype = 0,
        .halen = 0,
        .addr = @splat(0),
    };
    _ = try check(linux.bind(fd, @ptrCast(&address), @sizeOf(linux.sockaddr.ll)));
}

const packet_level = 263;

pub fn setPacketOption(fd: i32, name: u32, value: []const u8) Error!void {
    _ = try check(linux.setsockopt(fd, packet_level, name, value.ptr, @intCast(value.len)));
}

pub fn packetOption(fd: i32, name: u32) Error!u32 {
    var value: u32 = 0;
    var len: linux.socklen_t = @sizeOf(u32);
    _ = try check(linux.getsockopt(fd, packet_level, name, @ptrCast(&value), &len));
    return value;
}

pub fn xdpSocket() Error!i32 {
    return checkFd(linux.socket(linux.AF.XDP, linux.SOCK.RAW | linux.SOCK.CLOEXEC, 0));
}

/// struct sockaddr_xdp.
const XdpAddress = extern struct { family: u16 = linux.AF.XDP, flags: u16, index: i32, queue: u32, shared: u32 = 0 };

pub fn bindXdp(fd: i32, interface_index: i32, queue: u32, flags: u16) Error!void {
    const address: XdpAddress = .{ .flags = flags, .index = interface_index, .queue = queue };
    _ = try check(linux.bind(fd, @ptrCast(&address), @sizeOf(XdpAddress)));
}

const xdp_level = 283;

pub fn setXdpOption(fd: i32, name: u32, value: []const u8) Error!void {
    _ = try check(linux.setsockopt(fd, xdp_level, name, value.ptr, @intCast(value.len)));
}

/// Fills all of `value`.
pub fn xdpOption(fd: i32, name: u32, value: []u8) Error!void {
    var len: linux.socklen_t = @intCast(value.len);
    _ = try check(linux.getsockopt(fd, xdp_level, name, value.ptr, &len));
    if (len != value.len) return fail(errno_invalid);
}

/// Has a socket's rings looked at by the kernel.
pub fn wake(fd: i32) Error!void {
    _ = try check(linux.sendto(fd, "", 0, linux.MSG.DONTWAIT, null, 0));
}

/// What may be on its way from a socket, whatever the system's limit is.
pub fn setSendBuffer(fd: i32, bytes: u32) Error!void {
    const send_buffer_force = 32;
    _ = try check(linux.setsockopt(fd, linux.SOL.SOCKET, send_buffer_force, std.mem.asBytes(&bytes), @sizeOf(u32)));
}

/// The beginning of the command's attributes; the rest is zero. Returns an fd, or 0 where the command makes none.
pub fn bpf(command: u32, attributes: []const u8) Error!i32 {
    return checkFd(linux.syscall3(.bpf, command, @intFromPtr(attributes.ptr), attributes.len));
}

pub fn kernelIsAtLeast(major: u32, minor: u32) bool {
    var name: linux.utsname = undefined;
    if (linux.errno(linux.uname(&name)) != .SUCCESS) return false;
    var parts = std.mem.tokenizeAny(u8, &name.release, ".-+\x00");
    const found_major = std.fmt.parseInt(u32, parts.next() orelse "", 10) catch return false;
    const found_minor = std.fmt.parseInt(u32, parts.next() orelse "", 10) catch return false;
    return found_major > major or (found_major == major and found_minor >= minor);
}

/// To be read from and written to without waiting.
pub fn openDevice(path: [*:0]const u8) Error!i32 {
    return checkFd(linux.open(path, .{ .ACCMODE = .RDWR, .NONBLOCK = true, .CLOEXEC = true }, 0));
}

/// A socket to ask for interfaces by.
pub fn interfaceSocket() Error!i32 {
    return checkFd(linux.socket(linux.AF.INET, linux.SOCK.DGRAM | linux.SOCK.CLOEXEC, 0));
}

/// `argument` is a pointer or a number, as the request has it.
pub fn ioctl(fd: i32, request: u32, argument: usize) Error!void {
    _ = try check(linux.ioctl(fd, request, argument));
}

pub const Vector = std.posix.iovec_const;

/// Vectors that one call takes.
pub const vectors_max = 1024;

/// All of a packet in one call.
pub fn writePacket(fd: i32, vectors: []const Vector) Error!void {
    _ = try check(linux.writev(fd, vectors.ptr, vectors.len));
}

/// Whether there is something to be read, or an error to be told.
pub fn isReadable(fd: i32) bool {
    var polled = [1]linux.pollfd{.{ .fd = fd, .events = linux.POLL.IN, .revents = 0 }};
    const count = linux.poll(&polled, 1, 0);
    return linux.errno(count) == .SUCCESS and count == 1;
}

pub const errno_no_buffers: u16 = @backingInt(linux.E.NOBUFS);
pub const errno_not_supported: u16 = @backingInt(linux.E.OPNOTSUPP);
pub const errno_too_long: u16 = @backingInt(linux.E.MSGSIZE);
pub const errno_invalid: u16 = @backingInt(linux.E.INVAL);
pub const errno_busy: u16 = @backingInt(linux.E.BUSY);
/// What a system call was to read is not there.
pub const errno_fault: u16 = @backingInt(linux.E.FAULT);
pub const errno_exists: u16 = @backingInt(linux.E.EXIST);
pub const errno_not_permitted: u16 = @backingInt(linux.E.PERM);
pub const errno_no_device: u16 = @backingInt(linux.E.NODEV);
/// Of a tap that was deleted.
pub const errno_bad_state: u16 = @backingInt(linux.E.BADFD);

// Unix sockets of streams. All of ours are nonblocking and closed on exec.

pub fn socket() Error!i32 {
    return checkFd(linux.socket(linux.AF.UNIX, linux.SOCK.STREAM | socket_flags, 0));
}

pub fn socketPair() Error![2]i32 {
    var pair: [2]i32 = undefined;
    _ = try check(linux.socketpair(linux.AF.UNIX, linux.SOCK.STREAM | socket_flags, 0, &pair));
    return pair;
}

const socket_flags = linux.SOCK.NONBLOCK | linux.SOCK.CLOEXEC;

fn socketAddress(path: []const u8) linux.sockaddr.un {
    var address: linux.sockaddr.un = .{ .path = @splat(0) };
    std.debug.assert(path.len < address.path.len);
    @memcpy(address.path[0..path.len], path);
    return address;
}

/// At most 107 bytes of path.
pub fn bind(fd: i32, path: []const u8) Error!void {
    const address = socketAddress(path);
    _ = try check(linux.bind(fd, @ptrCast(&address), @sizeOf(linux.sockaddr.un)));
}

/// Done, or failed, at once: `errno_again` when the listener's queue is full.
pub fn connect(fd: i32, path: []const u8) Error!void {
    const address = socketAddress(path);
    _ = try check(linux.connect(fd, &address, @sizeOf(linux.sockaddr.un)));
}

pub fn listen(fd: i32) Error!void {
    const waiting_max = 4096;
    _ = try check(linux.listen(fd, waiting_max));
}

pub fn accept(fd: i32) Error!i32 {
    return checkFd(linux.accept4(fd, null, null, socket_flags));
}

/// The peer sees the end, whoever else holds the socket.
pub fn shutdown(fd: i32) void {
    _ = linux.shutdown(fd, linux.SHUT.RDWR);
}

pub const SocketKind = enum { connection, listener, other };

/// `other` is anything but a Unix socket of streams; fails when the fd is no socket.
pub fn socketKind(fd: i32) Error!SocketKind {
    if (try socketOption(fd, linux.SO.DOMAIN) != linux.AF.UNIX) return .other;
    if (try socketOption(fd, linux.SO.TYPE) != linux.SOCK.STREAM) return .other;
    return if (try socketOption(fd, linux.SO.ACCEPTCONN) != 0) .listener else .connection;
}

fn socketOption(fd: i32, name: u32) Error!i32 {
    var value: i32 = 0;
    var len: linux.socklen_t = @sizeOf(i32);
    _ = try check(linux.getsockopt(fd, linux.SOL.SOCKET, name, @ptrCast(&value), &len));
    return value;
}

pub const SocketPeer = struct { pid: i32, uid: u32 };

/// Who connected, or who listened there when we did (unix(7), SO_PEERCRED).
pub fn socketPeer(fd: i32) Error!SocketPeer {
    var credentials: extern struct { pid: i32, uid: u32, gid: u32 } = undefined;
    var len: linux.socklen_t = @sizeOf(@TypeOf(credentials));
    _ = try check(linux.getsockopt(fd, linux.SOL.SOCKET, linux.SO.PEERCRED, @ptrCast(&credentials), &len));
    return .{ .pid = credentials.pid, .uid = credentials.uid };
}

/// The bytes that there are, at most `bytes.len`; 0 is the end. The kernel drops fds that come with them.
pub fn receive(fd: i32, bytes: []u8) Error!usize {
    return check(linux.recvfrom(fd, bytes.ptr, bytes.len, linux.MSG.DONTWAIT, null, null));
}

pub const Received = struct {
    bytes: usize,
    fd_count: u32,
    /// There were more fds than places, or the process may have no more: those that arrived are closed.
    lost_fds: bool,
};

const Control = struct {
    /// Room for more fds than any caller wants, and for what a stranger's socket options may add.
    bytes: [512]u8 align(@alignOf(linux.cmsghdr)),

    /// The fds of one control message, or none.
    fn fdsAt(control: *const Control, at: usize, len: usize) []align(4) const i32 {
        const header: *const linux.cmsghdr = @ptrCast(@alignCast(&control.bytes[at]));
        if (header.level != linux.SOL.SOCKET or header.type != linux.SCM.RIGHTS) return &.{};
        const first: [*]const i32 = @ptrCast(@alignCast(&control.bytes[at + @sizeOf(linux.cmsghdr)]));
        return first[0 .. (len - @sizeOf(linux.cmsghdr)) / @sizeOf(i32)];
    }

    /// Moves the fds into `places`. False: there were more, and all are closed.
    fn take(control: *const Control, used: usize, places: []i32, count: *u32) bool {
        var at: usize = 0;
        var fits = true;
        count.* = 0;
        while (at + @sizeOf(linux.cmsghdr) <= used) {
            const header: *const linux.cmsghdr = @ptrCast(@alignCast(&control.bytes[at]));
            if (header.len < @sizeOf(linux.cmsghdr) or header.len > used - at) break;
            for (control.fdsAt(at, header.len)) |fd| {
                if (count.* < places.len) {
                    places[count.*] = fd;
                    count.* += 1;
                } else {
                    close(fd);
                    fits = false;
                }
            }
            at = std.mem.alignForward(usize, at + header.len, linux.cmsg_align);
        }
        return fits;
    }
};

/// As `receive`, with the fds that come with the bytes.
pub fn receiveWithFds(fd: i32, bytes: []u8, places: []i32) Error!Received {
    var control: Control = undefined;
    var vector = [_]std.posix.iovec{.{ .base = bytes.ptr, .len = bytes.len }};
    var message: linux.msghdr = .{
        .name = null,
        .namelen = 0,
        .iov = &vector,
        .iovlen = 1,
        .control = &control.bytes,
        .controllen = control.bytes.len,
        .flags = 0,
    };
    const count = try check(linux.recvmsg(fd, &message, linux.MSG.DONTWAIT | linux.MSG.CMSG_CLOEXEC));
    var received: Received = .{ .bytes = count, .fd_count = 0, .lost_fds = false };
    const fits = control.take(message.controllen, places, &received.fd_count);
    if (fits and message.flags & linux.MSG.CTRUNC == 0) return received;
    for (places[0..received.fd_count]) |place| close(place);
    return .{ .bytes = count, .fd_count = 0, .lost_fds = true };
}

/// As many bytes as there is room for; `fds`, borrowed, at most 253, go with the first.
pub fn send(fd: i32, bytes: []const u8, fds: []const i32) Error!usize {
    const fds_bytes = fds.len * @sizeOf(i32);
    var control: extern struct { header: linux.cmsghdr, fds: [254]i32 } = undefined;
    control.header = .{
        .len = @sizeOf(linux.cmsghdr) + fds_bytes,
        .level = linux.SOL.SOCKET,
        .type = linux.SCM.RIGHTS,
    };
    @memcpy(control.fds[0..fds.len], fds);
    const vector = [_]std.posix.iovec_const{.{ .base = bytes.ptr, .len = bytes.len }};
    const message: linux.msghdr_const = .{
        .name = null,
        .namelen = 0,
        .iov = &vector,
        .iovlen = 1,
        .control = if (fds.len > 0) &control else null,
        .controllen = if (fds.len > 0) std.mem.alignForward(usize, control.header.len, linux.cmsg_align) else 0,
        .flags = 0,
    };
    return check(linux.sendmsg(fd, &message, linux.MSG.DONTWAIT | linux.MSG.NOSIGNAL));
}

// Threads and time.

/// A lock among threads, held for a few system calls at most.
pub const Mutex = struct {
    inner: std.c.pthread_mutex_t = .{},

    pub fn lock(mutex: *Mutex) void {
        std.debug.assert(std.c.pthread_mutex_lock(&mutex.inner) == .SUCCESS);
    }

    pub fn unlock(mutex: *Mutex) void {
        std.debug.assert(std.c.pthread_mutex_unlock(&mutex.inner) == .SUCCESS);
    }
};

pub fn yieldCpu() void {
    _ = linux.sched_yield();
}

/// Whether the calling thread may run on a CPU: it is there, and neither taskset nor a cgroup forbids it.
pub fn mayRunOn(cpu: u32) bool {
    var set: linux.cpu_set_t = @splat(0);
    const bits = @bitSizeOf(usize);
    if (cpu >= bits * set.len) return false;
    _ = check(linux.syscall3(.sched_getaffinity, 0, @sizeOf(linux.cpu_set_t), @intFromPtr(&set))) catch return false;
    return set[cpu / bits] >> @intCast(cpu % bits) & 1 != 0;
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

/// For every thread of ours. Thread-local data is taken from it: a quarter of a megabyte with Zig's
/// own signal stack.
pub const thread_stack_bytes = 1 << 20;

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
const poke_signal: linux.SIG = @fromBackingInt(@intCast(62));

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

/// For the ages of addresses; wraps.
pub fn milliseconds() u32 {
    return @truncate(nanoseconds() / 1_000_000);
}

/// Not to be guessed.
pub fn random() u32 {
    var number: u32 = undefined;
    // Of so few bytes all come, once the system is up (getrandom(2)).
    if (std.os.linux.getrandom(std.mem.asBytes(&number), 4, 0) != 4) return @truncate(nanoseconds());
    return number;
}

/// CPU time that the calling thread has had.
pub fn threadNanoseconds() u64 {
    var time: std.c.timespec = undefined;
    _ = std.c.clock_gettime(.THREAD_CPUTIME_ID, &time);
    return @as(u64, @intCast(time.sec)) * 1_000_000_000 + @as(u64, @intCast(time.nsec));
}

/// For this thread; may be shorter than asked for.
pub fn sleep(duration_ns: u64) void {
    const duration: linux.timespec = .{
        .sec = @intCast(duration_ns / 1_000_000_000),
        .nsec = @intCast(duration_ns % 1_000_000_000),
    };
    _ = linux.nanosleep(&duration, null);
}

/// A full barrier between this thread's stores and its later loads.
pub inline fn fence() void {
    switch (builtin.cpu.arch) {
        .x86_64 => asm volatile ("lock orq $0, (%%rsp)" ::: .{ .memory = true }),
        .aarch64 => asm volatile ("dmb ish" ::: .{ .memory = true }),
        else => |arch| @compileError("no full barrier known for " ++ @tagName(arch)),
    }
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

// Other processes, halted and let go on one instruction at a time: ptrace(2). Always by the same thread of ours.

const trace = struct {
    const peek_user = 3;
    const single_step = 9;
    const detach = 17;
    const seize = 0x4206;
    const interrupt = 0x4207;
    /// Of struct user (sys/user.h): behind 16 registers of 8 bytes.
    const instruction_pointer = 16 * 8;
    const wait_all = 0x4000_0000;
};

pub const signal_trap = 5;

fn ask(request: usize, thread: i32, address: usize, data: usize) Error!void {
    _ = try check(linux.syscall4(.ptrace, request, @intCast(thread), address, data));
}

/// It is about to stand still: `traceWait`.
pub fn traceSeize(thread: i32) Error!void {
    try ask(trace.seize, thread, 0, 0);
    try ask(trace.interrupt, thread, 0, 0);
}

/// Lets it execute one instruction, or take a signal that is not 0.
pub fn traceStep(thread: i32, signal: u32) Error!void {
    try ask(trace.single_step, thread, 0, signal);
}

pub fn traceRelease(thread: i32) Error!void {
    try ask(trace.detach, thread, 0, 0);
}

/// Sleeps until it stands still; returns the signal that halted it, null when it has ended.
pub fn traceWait(thread: i32) Error!?u32 {
    while (true) {
        var result: i32 = undefined;
        _ = check(linux.wait4(thread, &result, trace.wait_all, null)) catch |reason| {
            if (errno_value == errno_interrupted) continue;
            return reason;
        };
        // As <sys/wait.h> takes it apart.
        return if (result & 0xff == 0x7f) @intCast((result >> 8) & 0xff) else null;
    }
}

/// On x86-64.
pub fn traceInstructionPointer(thread: i32) Error!u64 {
    var pointer: u64 = 0;
    try ask(trace.peek_user, thread, trace.instruction_pointer, @intFromPtr(&pointer));
    return pointer;
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
