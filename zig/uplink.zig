//! An interface of the host's that a port leads to, of any kind.

const std = @import("std");
const abi = @import("abi.zig");
const interface = @import("interface.zig");
const PacketSockets = @import("packet_socket.zig").PacketSockets;
const spec = @import("spec.zig");
const sys = @import("sys.zig");
const Tap = @import("tap.zig").Tap;
const UplinkQueue = @import("uplink_queue.zig").UplinkQueue;
const XdpQueues = @import("xdp_queues.zig").XdpQueues;

pub const Error = error{ InvalidArgument, OutOfMemory, System };

pub const Uplink = struct {
    name: [16]u8,
    /// Of the interface, as long as it is the same.
    index: i32,
    /// Of an interface that was there, whose MTU was changed.
    mtu_before: ?u32,
    gro: bool,
    /// Another process has it, too: closing it leaves all as it is.
    shared: bool,
    /// Where to go on in the rings of an adopted one.
    positions: ?[abi.queue_pairs_max]u32,
    way: union(abi.UplinkKind) { tap: Tap, packet: PacketSockets, xdp: XdpQueues },

    /// Fills in what is found, and at a failure the step.
    pub fn open(config: *abi.Uplink) Error!*Uplink {
        const has_end = std.mem.findScalar(u8, &config.name, 0) != null;
        if (!has_end or config.name[0] == 0) return error.InvalidArgument;
        if (config.queue_pairs == 0 or config.queue_pairs > abi.queue_pairs_max) return error.InvalidArgument;
        const uplink = try std.heap.c_allocator.create(Uplink);
        errdefer std.heap.c_allocator.destroy(uplink);
        uplink.name = config.name;
        uplink.gro = config.gro != 0;
        uplink.shared = false;
        uplink.positions = null;
        uplink.index = interface.indexOf(config.name) catch -1;
        uplink.mtu_before = if (config.mtu == 0) null else interface.mtuOf(config.name) catch null;
        errdefer uplink.restoreMtu();
        switch (config.kind) {
            .tap => {
                uplink.way = .{ .tap = undefined };
                try uplink.way.tap.open(config);
            },
            .packet => {
                uplink.way = .{ .packet = undefined };
                try uplink.way.packet.open(config);
            },
            .xdp => {
                uplink.way = .{ .xdp = undefined };
                try uplink.way.xdp.open(config);
            },
        }
        if (uplink.index < 0) uplink.index = interface.indexOf(config.name) catch -1;
        return uplink;
    }

    /// So many descriptors another process needs that is to go on with such an interface.
    pub fn fdCount(kind: abi.UplinkKind, queue_pairs: u32) u32 {
        return if (kind == .xdp) XdpQueues.fdCount(queue_pairs) else queue_pairs;
    }

    /// Goes on with what another process opened, and takes the fds over. It is shared.
    pub fn adopt(config: *const abi.Uplink, known: abi.UplinkState, fds: []const i32) Error!*Uplink {
        if (config.queue_pairs == 0 or config.queue_pairs > abi.queue_pairs_max) return error.InvalidArgument;
        const uplink = try std.heap.c_allocator.create(Uplink);
        errdefer std.heap.c_allocator.destroy(uplink);
        uplink.* = .{
            .name = config.name,
            .index = known.index,
            .mtu_before = if (known.mtu_before == 0) null else known.mtu_before,
            .gro = config.gro != 0,
            .shared = true,
            .positions = @splat(0),
            .way = undefined,
        };
        switch (config.kind) {
            .tap => {
                uplink.way = .{ .tap = undefined };
                uplink.way.tap.adopt(config.name, known, fds);
            },
            .packet => {
                uplink.way = .{ .packet = undefined };
                uplink.way.packet.adopt(known, fds);
            },
            .xdp => {
                uplink.way = .{ .xdp = undefined };
                try uplink.way.xdp.adopt(known.in_pieces != 0, fds);
            },
        }
        return uplink;
    }

    /// Where the other process rests, in a queue pair of one that is not attached yet.
    pub fn beginAt(uplink: *Uplink, pair: u32, position: u32) error{InvalidArgument}!void {
        if (uplink.positions == null or pair >= uplink.queuePairs()) return error.InvalidArgument;
        uplink.positions.?[pair] = position;
        if (uplink.way == .xdp) uplink.way.xdp.sockets[pair].goOn();
    }

    /// For `adopt`.
    pub fn state(uplink: *const Uplink) Error!abi.UplinkState {
        var known = std.mem.zeroes(abi.UplinkState);
        known.index = uplink.index;
        known.mtu_before = uplink.mtu_before orelse 0;
        switch (uplink.way) {
            .tap => |*tap| {
                known.features = tap.features;
                known.created = @intFromBool(tap.created);
                known.tap_header_bytes = tap.header_bytes;
                known.raised = @intFromBool(tap.raised);
            },
            .packet => |*sockets| {
                known.features = sockets.features;
                known.header_bytes = sockets.header_bytes;
            },
            .xdp => |*queues| {
                // Before that, rings cannot be mapped once more.
                if (!sys.kernelIsAtLeast(6, 4)) return sys.fail(sys.errno_not_supported);
                known.in_pieces = @intFromBool(queues.sockets[0].sender.in_pieces);
            },
        }
        return known;
    }

    /// A descriptor that another process needs, still ours. First come those of the queue pairs.
    pub fn fdOf(uplink: *const Uplink, number: usize) Error!i32 {
        if (number >= fdCount(uplink.way, uplink.queuePairs())) return error.InvalidArgument;
        return switch (uplink.way) {
            .tap => |*tap| tap.fds[number],
            .packet => |*sockets| sockets.fds[number],
            .xdp => |*queues| queues.fdOf(number),
        };
    }

    fn restoreMtu(uplink: *const Uplink) void {
        const mtu = uplink.mtu_before orelse return;
        if (!uplink.isGone()) interface.changeMtu(uplink.name, mtu) catch {};
    }

    /// What was made goes, and what was there before is as it was. Ports that are attached still have it.
    pub fn close(uplink: *Uplink) void {
        switch (uplink.way) {
            .tap => |*tap| if (uplink.shared) tap.forget() else tap.close(),
            inline else => |*way| way.close(),
        }
        if (!uplink.shared) uplink.restoreMtu();
        uplink.destroy();
    }

    /// Leaves its descriptors to the caller.
    pub fn forget(uplink: *Uplink) void {
        if (uplink.way == .xdp) uplink.way.xdp.forget();
        uplink.destroy();
    }

    fn destroy(uplink: *Uplink) void {
        std.heap.c_allocator.destroy(uplink);
    }

    /// Whether the interface was deleted meanwhile, and perhaps made anew.
    pub fn isGone(uplink: *const Uplink) bool {
        const index = interface.indexOf(uplink.name) catch return true;
        return index != uplink.index;
    }

    pub fn queuePairs(uplink: *const Uplink) u32 {
        return switch (uplink.way) {
            inline else => |*way| way.queue_pairs,
        };
    }

    /// A queue of it for one direction, whose owner the caller is. Of XDP nobody else may have it.
    pub fn queue(uplink: *const Uplink, pair: usize, receives: bool) UplinkQueue.Error!*UplinkQueue {
        return UplinkQueue.create(switch (uplink.way) {
            .tap => |*tap| .{
                .fd = tap.fds[pair],
                .features = tap.features,
                .header_bytes = @sizeOf(spec.NetHeader),
                .receives = receives,
                .way = .file,
                .gro = uplink.gro,
            },
            .packet => |*sockets| .{
                .fd = sockets.fds[pair],
                .features = sockets.features,
                .header_bytes = sockets.header_bytes,
                .receives = receives,
                .way = .{ .ring = if (uplink.positions) |known| known[pair] else null },
                .gro = uplink.gro,
            },
            .xdp => |*queues| .{
                .fd = queues.sockets[pair].fd,
                .features = 0,
                .header_bytes = 0,
                .receives = receives,
                .way = .{ .xdp = queues.sockets[pair] },
                .gro = uplink.gro,
            },
        });
    }
};
