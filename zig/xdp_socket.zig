//! An AF_XDP socket: one queue of an interface, both directions of it (Linux, Documentation/networking/af_xdp.rst).

const std = @import("std");
const abi = @import("abi.zig");
const sys = @import("sys.zig");
const umem_file = @import("umem.zig");
const xdp_ring = @import("xdp_ring.zig");
const XdpReceiver = @import("xdp_receiver.zig").XdpReceiver;
const XdpSender = @import("xdp_sender.zig").XdpSender;

const Umem = umem_file.Umem;
const allocator = std.heap.c_allocator;

const option = struct {
    const mmap_offsets = 1;
    const receive_ring = 2;
    const send_ring = 3;
    const fill_ring = 5;
    const completion_ring = 6;
};

const bind_flag = struct {
    const copy = 2;
    const need_wakeup = 8;
    /// XDP_USE_SG.
    const in_pieces = 16;
};

pub const XdpSocket = struct {
    fd: i32,
    umem: Umem,
    receiver: XdpReceiver,
    sender: XdpSender,
    users: std.atomic.Value(u32),

    /// Who has it: whoever opened it, and one for each direction. The last one closes it.
    pub const User = enum(u32) { opener = 1, receiver = 2, sender = 4 };

    /// Where a socket belongs. `in_pieces`: a frame may be longer than a chunk. `copies`: although the driver could let
    /// the memory be written to and read by the device.
    pub const Place = struct { index: i32, queue: u32, in_pieces: bool, copies: bool };

    /// At a failure `step` has the step.
    pub fn open(place: Place, step: *abi.UplinkStep) error{ OutOfMemory, System }!*XdpSocket {
        const socket = try allocator.create(XdpSocket);
        errdefer allocator.destroy(socket);
        step.* = .device;
        socket.fd = try sys.xdpSocket();
        errdefer sys.close(socket.fd);
        step.* = .memory;
        socket.umem = try .open();
        errdefer socket.umem.close();
        try socket.umem.register(socket.fd);
        const count: u32 = umem_file.ring_entries;
        inline for (.{ option.receive_ring, option.send_ring, option.fill_ring, option.completion_ring }) |name| {
            try sys.setXdpOption(socket.fd, name, std.mem.asBytes(&count));
        }
        try socket.openRings(place.in_pieces);
        errdefer socket.closeRings();
        socket.receiver.stock();
        step.* = .queue;
        var flags: u16 = bind_flag.need_wakeup;
        if (place.in_pieces) flags |= bind_flag.in_pieces;
        if (place.copies) flags |= bind_flag.copy;
        try sys.bindXdp(socket.fd, place.index, place.queue, flags);
        socket.users = .init(@backingInt(User.opener));
        return socket;
    }

    /// One of another process, with its memory; `goOn` once that rests. The fds are the caller's until it succeeds.
    pub fn adopt(fd: i32, memory_fd: i32, in_pieces: bool) error{ InvalidArgument, OutOfMemory, System }!*XdpSocket {
        const socket = try allocator.create(XdpSocket);
        errdefer allocator.destroy(socket);
        socket.fd = fd;
        socket.umem = try .adopt(memory_fd);
        errdefer socket.umem.forget();
        try socket.openRings(in_pieces);
        socket.users = .init(@backingInt(User.opener));
        return socket;
    }

    /// Where the other process rests.
    pub fn goOn(socket: *XdpSocket) void {
        socket.receiver.goOn();
        socket.sender.goOn();
    }

    /// Leaves its descriptors to the caller.
    pub fn forget(socket: *XdpSocket) void {
        socket.closeRings();
        socket.umem.forget();
        allocator.destroy(socket);
    }

    fn openRings(socket: *XdpSocket, in_pieces: bool) sys.Error!void {
        var offsets: xdp_ring.Offsets = undefined;
        try sys.xdpOption(socket.fd, option.mmap_offsets, std.mem.asBytes(&offsets));
        socket.receiver = try .open(socket.fd, socket.umem, offsets);
        errdefer socket.receiver.close();
        try socket.sender.open(socket.fd, socket.umem, offsets, in_pieces);
    }

    fn closeRings(socket: *XdpSocket) void {
        socket.sender.close();
        socket.receiver.close();
    }

    /// False: another user is that already. What rings and memory hold stays for the next one.
    pub fn take(socket: *XdpSocket, user: User) bool {
        const bit = @backingInt(user);
        return socket.users.fetchOr(bit, .acq_rel) & bit == 0;
    }

    pub fn leave(socket: *XdpSocket, user: User) void {
        const bit = @backingInt(user);
        if (socket.users.fetchAnd(~bit, .acq_rel) != bit) return;
        sys.close(socket.fd);
        socket.closeRings();
        socket.umem.close();
        allocator.destroy(socket);
    }
};
