//! AF_PACKET sockets: all that an interface receives, and frames sent through it, with a virtio-net header in front of
//! each, so that the kernel cuts and finishes what is left to do (packet(7)).

const std = @import("std");
const abi = @import("abi.zig");
const interface = @import("interface.zig");
const packet_ring = @import("packet_ring.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const option = struct {
    const rx_ring = 5;
    const version = 10;
    const net_header = 15;
    const fanout = 18;
    const bypass = 20;
    const ignore_outgoing = 23;
    const net_header_bytes = 24;
};

const version_2 = 1;
/// By addresses and ports, so that a flow stays in its queue; the number of the group is the kernel's to choose.
const fanout_hash = 0;
const fanout_unique = 0x2000;
const short_header_bytes = 10;

/// struct tpacket_req.
const RingRequest = extern struct { block_bytes: u32, blocks: u32, slot_bytes: u32, slots: u32 };

pub const PacketSockets = struct {
    fds: [abi.queue_pairs_max]i32,
    queue_pairs: u32,
    /// Of what is sent: all of it, or that of before VERSION_1.
    header_bytes: u32,
    features: u64,

    /// Fills in what is found, and at a failure the step.
    pub fn open(sockets: *PacketSockets, config: *abi.Uplink) sys.Error!void {
        sockets.* = .{ .fds = undefined, .queue_pairs = 0, .header_bytes = 0, .features = 0 };
        errdefer sockets.close();
        config.step = .attach;
        const index = try interface.indexOf(config.name);
        while (sockets.queue_pairs < config.queue_pairs) {
            config.step = .device;
            const fd = try sys.packetSocket();
            sockets.fds[sockets.queue_pairs] = fd;
            sockets.queue_pairs += 1;
            config.step = .offload;
            try sockets.prepare(fd);
            config.step = .attach;
            try sys.bindPacket(fd, index);
            try interface.hearAll(fd, index);
        }
        if (sockets.queue_pairs > 1) try sockets.share();
        sockets.features = interface.kernelFeatures(sys.kernelIsAtLeast(6, 2));
        config.step = .mtu;
        try interface.setMtu(config);
        config.step = .up;
        config.up = @intFromBool(try interface.isUp(config.name));
        config.step = .none;
    }

    fn prepare(sockets: *PacketSockets, fd: i32) sys.Error!void {
        const whole: u32 = @sizeOf(spec.NetHeader);
        sockets.header_bytes = whole;
        // Linux 6.4 and later; before it there is only the short header.
        setNumber(fd, option.net_header_bytes, whole) catch {
            sockets.header_bytes = short_header_bytes;
            try setNumber(fd, option.net_header, 1);
        };
        try setNumber(fd, option.ignore_outgoing, 1);
        try setNumber(fd, option.bypass, 1);
        try setNumber(fd, option.version, version_2);
        const ring: RingRequest = .{
            .block_bytes = packet_ring.block_bytes,
            .blocks = packet_ring.blocks,
            .slot_bytes = packet_ring.slot_bytes,
            .slots = packet_ring.blocks * packet_ring.slots_in_block,
        };
        try sys.setPacketOption(fd, option.rx_ring, std.mem.asBytes(&ring));
    }

    /// Each packet comes to one of them.
    fn share(sockets: *PacketSockets) sys.Error!void {
        const first = sockets.fds[0];
        try setNumber(first, option.fanout, (fanout_hash | fanout_unique) << 16);
        const group = try sys.packetOption(first, option.fanout) & 0xffff;
        for (sockets.fds[1..sockets.queue_pairs]) |fd| try setNumber(fd, option.fanout, group | fanout_hash << 16);
    }

    /// Goes on with sockets that another process opened.
    pub fn adopt(sockets: *PacketSockets, known: abi.UplinkState, fds: []const i32) void {
        sockets.* = .{
            .fds = undefined,
            .queue_pairs = @intCast(fds.len),
            .header_bytes = known.header_bytes,
            .features = known.features,
        };
        @memcpy(sockets.fds[0..fds.len], fds);
    }

    pub fn close(sockets: *PacketSockets) void {
        for (sockets.fds[0..sockets.queue_pairs]) |fd| sys.close(fd);
        sockets.queue_pairs = 0;
    }
};

fn setNumber(fd: i32, name: u32, value: u32) sys.Error!void {
    try sys.setPacketOption(fd, name, std.mem.asBytes(&value));
}
