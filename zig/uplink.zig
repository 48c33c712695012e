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

    fn restoreMtu(uplink: *const Uplink) void {
        const mtu = uplink.mtu_before orelse return;
        if (!uplink.isGone()) interface.changeMtu(uplink.name, mtu) catch {};
    }

    /// What was made goes, and what was there before is as it was. Ports that are attached still have it.
    pub fn close(uplink: *Uplink) void {
        switch (uplink.way) {
            inline else => |*way| way.close(),
        }
        uplink.restoreMtu();
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
                .way = .ring,
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
