//! What is asked of the host's interfaces, and set, whatever leads to them (netdevice(7)).

const std = @import("std");
const abi = @import("abi.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const request = struct {
    const get_index = 0x8933;
    const get_flags = 0x8913;
    const set_flags = 0x8914;
    const get_mtu = 0x8921;
    const set_mtu = 0x8922;
};

const flag_up = 1;

/// struct ifreq.
pub const Request = extern struct {
    name: [16]u8,
    value: extern union { flags: u16, number: i32, bytes: [24]u8 },

    pub fn of(name: [16]u8) Request {
        return .{ .name = name, .value = .{ .bytes = @splat(0) } };
    }
};

fn ask(number: u32, asked: *Request) sys.Error!void {
    const fd = try sys.interfaceSocket();
    defer sys.close(fd);
    try sys.ioctl(fd, number, @intFromPtr(asked));
}

pub fn indexOf(name: [16]u8) sys.Error!i32 {
    var asked: Request = .of(name);
    try ask(request.get_index, &asked);
    return asked.value.number;
}

pub fn mtuOf(name: [16]u8) sys.Error!u32 {
    var asked: Request = .of(name);
    try ask(request.get_mtu, &asked);
    return @intCast(asked.value.number);
}

pub fn changeMtu(name: [16]u8, mtu: u32) sys.Error!void {
    var asked: Request = .of(name);
    asked.value.number = @intCast(mtu);
    try ask(request.set_mtu, &asked);
}

/// Sets what is wanted, and writes down what it is.
pub fn setMtu(config: *abi.Uplink) sys.Error!void {
    if (config.mtu != 0) try changeMtu(config.name, config.mtu);
    config.mtu = try mtuOf(config.name);
}

pub fn isUp(name: [16]u8) sys.Error!bool {
    var asked: Request = .of(name);
    try ask(request.get_flags, &asked);
    return asked.value.flags & flag_up != 0;
}

pub fn setUp(name: [16]u8, up: bool) sys.Error!void {
    var asked: Request = .of(name);
    try ask(request.get_flags, &asked);
    asked.value.flags = asked.value.flags & ~@as(u16, flag_up) | @intFromBool(up);
    try ask(request.set_flags, &asked);
}

/// struct packet_mreq.
const Membership = extern struct { index: i32, type: u16, address_bytes: u16 = 0, address: [8]u8 = @splat(0) };

/// As long as a packet socket is open, its interface takes in what is for other addresses, too (packet(7)).
pub fn hearAll(packet_socket: i32, index: i32) sys.Error!void {
    const add_membership = 1;
    const promiscuous = 1;
    const membership: Membership = .{ .index = index, .type = promiscuous };
    try sys.setPacketOption(packet_socket, add_membership, std.mem.asBytes(&membership));
}

/// What the kernel does to a frame with a virtio-net header, as features of a device. `uso`: Linux 6.2 and later.
pub fn kernelFeatures(uso: bool) u64 {
    const all = bit(spec.Feature.csum) | bit(spec.Feature.host_tso4) | bit(spec.Feature.host_tso6) |
        bit(spec.Feature.host_ecn) | bit(spec.Feature.host_ufo);
    return if (uso) all | bit(spec.Feature.host_uso) else all;
}

fn bit(feature: u6) u64 {
    return @as(u64, 1) << feature;
}
