//! An interface of the host's that a port leads to, of any kind.

const std = @import("std");
const abi = @import("abi.zig");
const sys = @import("sys.zig");
const Tap = @import("tap.zig").Tap;

pub const Error = error{ InvalidArgument, OutOfMemory, System };

pub const Uplink = struct {
    tap: Tap,

    /// Fills in what is found, and at a failure the step.
    pub fn open(config: *abi.Uplink) Error!*Uplink {
        const has_end = std.mem.findScalar(u8, &config.name, 0) != null;
        if (!has_end or config.name[0] == 0 or config.kind != .tap) return error.InvalidArgument;
        if (config.queue_pairs == 0 or config.queue_pairs > abi.queue_pairs_max) return error.InvalidArgument;
        const uplink = try std.heap.c_allocator.create(Uplink);
        errdefer std.heap.c_allocator.destroy(uplink);
        try uplink.tap.open(config);
        return uplink;
    }

    /// What was made goes, and what was there before is as it was. Ports that are attached still have it.
    pub fn close(uplink: *Uplink) void {
        uplink.tap.close();
        std.heap.c_allocator.destroy(uplink);
    }

    pub fn fds(uplink: *const Uplink) []const i32 {
        return uplink.tap.fds[0..uplink.tap.queue_pairs];
    }

    /// What the kernel does to frames for us, as features of a device.
    pub fn features(uplink: *const Uplink) u64 {
        return uplink.tap.features;
    }
};
