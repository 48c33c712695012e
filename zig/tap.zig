//! Tap interfaces: made or attached to, with a virtio-net header in front of each frame, so that the kernel cuts and
//! finishes what is left to do (Linux, Documentation/networking/tuntap.rst).

const std = @import("std");
const abi = @import("abi.zig");
const interface = @import("interface.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const device = "/dev/net/tun";

/// The same on all processors that we run on.
const request = struct {
    const set_interface = 0x400454ca;
    const get_interface = 0x800454d2;
    const set_offload = 0x400454d0;
    const get_header_bytes = 0x800454d7;
    const set_header_bytes = 0x400454d8;
    const set_little_endian = 0x400454dc;
};

const flag = struct {
    const tap = 0x0002;
    const multi_queue = 0x0100;
    const no_packet_info = 0x1000;
    const net_header = 0x4000;
};

const offload = struct {
    const csum = 0x01;
    const tso4 = 0x02;
    const tso6 = 0x04;
    const tso_ecn = 0x08;
    /// Both or none.
    const uso = 0x20 | 0x40;
};

/// Some queues of one interface.
pub const Tap = struct {
    name: [16]u8,
    fds: [abi.queue_pairs_max]i32,
    queue_pairs: u32,
    created: bool,
    /// To be restored, if it was there before.
    header_bytes: i32,
    raised: bool,
    /// What the kernel does to frames for us, as features of a device.
    features: u64,

    /// Fills in what is found, and at a failure the step.
    pub fn open(tap: *Tap, config: *abi.Uplink) sys.Error!void {
        const existed = if (interface.indexOf(config.name)) |_| true else |_| false;
        tap.* = .{
            .name = config.name,
            .fds = undefined,
            .queue_pairs = 0,
            .created = !existed,
            .header_bytes = 0,
            .raised = false,
            .features = 0,
        };
        errdefer tap.close();
        try tap.attachAll(config, existed);
        config.created = @intFromBool(tap.created);
        config.step = .offload;
        try tap.setOffloads(config.offloads != 0);
        config.step = .mtu;
        try interface.setMtu(config);
        config.step = .up;
        try tap.raise(config);
        config.step = .none;
    }

    fn attachAll(tap: *Tap, config: *abi.Uplink, existed: bool) sys.Error!void {
        var flags: u16 = flag.tap | flag.no_packet_info | flag.net_header;
        if (config.queue_pairs > 1) flags |= flag.multi_queue;
        while (tap.queue_pairs < config.queue_pairs) {
            config.step = .device;
            const fd = try sys.openDevice(device);
            config.step = .attach;
            attach(fd, config, flags) catch |reason| {
                const kind = sys.lastErrno();
                sys.close(fd);
                // One that was made for several queues takes one only as one of several.
                if (kind == sys.errno_invalid and existed and flags & flag.multi_queue == 0) {
                    flags |= flag.multi_queue;
                    continue;
                }
                return if (kind == sys.lastErrno()) reason else sys.fail(kind);
            };
            tap.fds[tap.queue_pairs] = fd;
            tap.queue_pairs += 1;
        }
    }

    /// A queue without a header is not refused: look.
    fn attach(fd: i32, config: *abi.Uplink, flags: u16) sys.Error!void {
        var asked: interface.Request = .of(config.name);
        asked.value.flags = flags;
        try sys.ioctl(fd, request.set_interface, @intFromPtr(&asked));
        try sys.ioctl(fd, request.get_interface, @intFromPtr(&asked));
        if (asked.value.flags & flag.net_header == 0) return sys.fail(sys.errno_invalid);
    }

    /// All of it belongs to the interface, and stays with one that was there before.
    fn setOffloads(tap: *Tap, wanted: bool) sys.Error!void {
        const fd = tap.fds[0];
        try sys.ioctl(fd, request.get_header_bytes, @intFromPtr(&tap.header_bytes));
        const header_bytes: i32 = @sizeOf(spec.NetHeader);
        try sys.ioctl(fd, request.set_header_bytes, @intFromPtr(&header_bytes));
        const little: i32 = 1;
        try sys.ioctl(fd, request.set_little_endian, @intFromPtr(&little));
        const some = offload.csum | offload.tso4 | offload.tso6 | offload.tso_ecn;
        const uso = if (sys.ioctl(fd, request.set_offload, some | offload.uso)) |_| true else |_| false;
        if (!uso) try sys.ioctl(fd, request.set_offload, some);
        tap.features = interface.kernelFeatures(uso);
        if (!wanted) try sys.ioctl(fd, request.set_offload, 0);
    }

    fn raise(tap: *Tap, config: *abi.Uplink) sys.Error!void {
        config.up = 1;
        if (try interface.isUp(config.name)) return;
        interface.setUp(config.name, true) catch |reason| {
            config.up = 0;
            // Its owner without capabilities may use it, and somebody else has to set it up.
            return if (tap.created) reason else {};
        };
        tap.raised = true;
    }

    /// Goes on with queues that another process opened.
    pub fn adopt(tap: *Tap, name: [16]u8, known: abi.UplinkState, fds: []const i32) void {
        tap.* = .{
            .name = name,
            .fds = undefined,
            .queue_pairs = @intCast(fds.len),
            .created = known.created != 0,
            .header_bytes = known.tap_header_bytes,
            .raised = known.raised != 0,
            .features = known.features,
        };
        @memcpy(tap.fds[0..fds.len], fds);
    }

    /// What was made goes, and what was there before is as it was.
    pub fn close(tap: *Tap) void {
        if (!tap.created and tap.queue_pairs > 0) tap.restore() catch {};
        tap.forget();
    }

    /// Leaves the interface as it is, which another process goes on with.
    pub fn forget(tap: *Tap) void {
        for (tap.fds[0..tap.queue_pairs]) |fd| sys.close(fd);
        tap.queue_pairs = 0;
    }

    fn restore(tap: *Tap) sys.Error!void {
        const fd = tap.fds[0];
        if (tap.header_bytes != 0) try sys.ioctl(fd, request.set_header_bytes, @intFromPtr(&tap.header_bytes));
        try sys.ioctl(fd, request.set_offload, 0);
        if (tap.raised) try interface.setUp(tap.name, false);
    }
};
