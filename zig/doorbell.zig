//! The doorbell of an ivshmem device, mapped: a store from within a guest signals eventfds of another guest's devices
//! (QEMU docs/specs/ivshmem-spec, "Registers").

const std = @import("std");
const sys = @import("sys.zig");

/// Of BAR 0, in bytes.
const doorbell_offset = 12;

/// What rings one ring's eventfd.
pub const Bell = struct {
    register: *volatile u32,
    value: u32,

    pub inline fn ring(bell: Bell) void {
        bell.register.* = bell.value;
    }
};

pub const Doorbell = struct {
    map: sys.Map,
    register: *volatile u32,

    /// `offset` is where BAR 0 begins in its page; the fd is only borrowed.
    pub fn open(fd: i32, offset: u32) error{ InvalidArgument, System }!Doorbell {
        const page = std.heap.page_size_min;
        if (offset % @sizeOf(u32) != 0 or offset >= page - doorbell_offset) return error.InvalidArgument;
        const map = try sys.mapShared(fd, 0, page);
        return .{ .map = map, .register = @ptrCast(@alignCast(map.ptr + offset + doorbell_offset)) };
    }

    pub fn close(doorbell: Doorbell) void {
        sys.unmap(doorbell.map);
    }

    /// Vectors are numbered as rings are.
    pub fn bell(doorbell: Doorbell, peer: u16, vector: u16) Bell {
        return .{ .register = doorbell.register, .value = @as(u32, peer) << 16 | vector };
    }
};

test "a bell stores peer and vector where the register is" {
    const fd = try sys.memoryFile("test", 4096);
    defer sys.close(fd);
    const doorbell: Doorbell = try .open(fd, 256);
    defer doorbell.close();
    doorbell.bell(3, 5).ring();
    const words: [*]const u32 = @ptrCast(doorbell.map.ptr);
    try std.testing.expectEqual(0x30005, words[(256 + 12) / 4]);
    try std.testing.expectError(error.InvalidArgument, Doorbell.open(fd, 4092));
}
